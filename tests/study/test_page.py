"""The page in Chromium: two raters answer by keyboard, and their answers are scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def study(explained: Path, cli: Callable, tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    assert cli("study", "build", explained, "--seed", "3", "-o", folder).status == 0
    return folder


def begun(chromium: Any, folder: Path, rater: str, **options: object) -> Any:
    """The page's first question, every request and error of the page noted."""
    page = chromium.new_context(**options).new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: page.faults.append(r.url)
            if not r.url.startswith(("file:", "data:", "blob:")) else None)  # fmt: skip
    page.goto((folder / "study.html").as_uri())
    page.fill("#rater", rater)
    page.press("#rater", "Enter")
    return page


def rate(page: Any, key: dict, preference: Callable[[str], int], to: Path) -> Path:
    """Answer everything by keyboard: how much B is preferred, by the name of the picture."""
    shown = json.loads(page.text_content("#data"))["items"]
    for item in shown:
        about = key["items"][item["id"]]
        toward_b = preference(about["key"])
        page.keyboard.press(str(3 + (toward_b if about["right"] == "B" else -toward_b)))
        page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(to)
    return to


def test_two_raters_answer_by_keyboard_and_are_scored(
    chromium: Any, study: Path, cli: Callable
) -> None:
    key = json.loads((study / "key.json").read_bytes())
    files = []
    for rater, preference in (("ann", lambda name: 2), ("bob", lambda name: "coffee" in name)):
        page = begun(chromium, study, rater)
        files.append(
            rate(page, key, lambda name, p=preference: int(p(name)), study / f"{rater}.json")
        )
        assert page.faults == []
        assert page.title() == "What did the network see?"  # no label has run as script
        assert page.locator("main img").count() == 3
        page.context.close()
    found = json.loads(cli("study", "score", study, *files, "--json").stdout)
    assert (found["raters"], found["answers"]) == (2, 10)
    assert found["preference"]["mean"] == (5 * 2 + 1) / 10
    assert found["p"] == 2 / 2**5


def test_answers_are_there_again_after_a_reload(chromium: Any, study: Path) -> None:
    page = begun(chromium, study, "ann")
    for _ in range(2):
        page.keyboard.press("4")
        page.keyboard.press("Enter")
    page.reload()
    page.fill("#rater", "ann")
    page.click("text=Start")
    assert page.text_content("#where") == "2 of 5 answered"
    assert page.text_content("#asked").startswith("3 of 5.")
    page.keyboard.press("Backspace")
    assert page.is_checked("input[value='1']")
    page.reload()
    page.fill("#rater", "bob")
    page.click("text=Start")
    assert page.text_content("#where") == "0 of 5 answered"
    page.context.close()


def test_a_browser_that_keeps_nothing_says_so_and_works(
    chromium: Any, study: Path, cli: Callable
) -> None:
    page = chromium.new_context().new_page()
    page.add_init_script("Object.defineProperty(window, 'localStorage', "
                         "{get() { throw new Error('denied'); }})")  # fmt: skip
    page.goto((study / "study.html").as_uri())
    assert "This browser keeps nothing" in page.text_content("#memory")
    page.fill("#rater", "ann")
    page.click("text=Start")
    key = json.loads((study / "key.json").read_bytes())
    path = rate(page, key, lambda name: -1, study / "ann.json")
    found = json.loads(cli("study", "score", study, path, "--json").stdout)
    assert found["preference"]["mean"] == -1
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("protocol", ["pairs", "classes"])
def test_the_page_fits_and_is_accessible(
    chromium: Any, explained: Path, cli: Callable, tmp_path: Path,
    scheme: str, width: int, protocol: str,
) -> None:  # fmt: skip
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    folder = tmp_path / "study"
    cli("study", "build", explained, "--protocol", protocol, "--pictures", "2", "-o", folder)
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme,
               "bypass_csp": True}  # fmt: skip
    page = begun(chromium, folder, "ann", **options)
    page.keyboard.press("1")
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.reload()  # the first screen too
    page.context.close()
