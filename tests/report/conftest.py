"""A browser that opens reports from the disk, and says what went wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from camcli.report.building import build
from tests.report.synthetic import write_run

Open = Callable[..., Any]
_PATIENCE = 20_000  # milliseconds, for a machine that is busy


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2,000 pictures with its report."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "in").mkdir()
    (folder / "in" / "labels.csv").write_text("path,label\n000000.jpg,tench\n000001.jpg,tench\n")
    out = write_run(folder / "out", 2000, folder / "in")
    build(out, truth=f"csv:{folder / 'in' / 'labels.csv'}")
    return out


@pytest.fixture
def opened(chromium: Any) -> Callable[..., Any]:
    """Opens a report: `with opened(out, width=390) as page`. Fails where the page complains, opens
    a dialog of the browser, or asks for anything that is not a file.
    """

    @contextmanager
    def look(
        out: Path,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        missing: bool = False,
    ) -> Iterator[Any]:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: faults.append(request.url)
                if not request.url.startswith(("file:", "data:")) else None)  # fmt: skip
        page.on("console", lambda message: faults.append(message.text)
                if not (missing and "ERR_FILE_NOT_FOUND" in message.text) else None)  # fmt: skip
        page.goto((out / "report" / "index.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        context.close()
        assert faults == []

    return look
