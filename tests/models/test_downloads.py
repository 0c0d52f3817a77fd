"""Published weights are downloaded, checked, and kept where torch.hub keeps them."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision import models

from camcli.errors import ModelError
from camcli.models.torchvision import builders
from camcli.models.weights import fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps downloads, empty and ours."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "home" / "hub" / "checkpoints"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that its files are served from."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def nowhere() -> str:
    """An address that nobody answers at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_download_with_the_right_digits_is_kept(cache: Path, site) -> None:
    folder, address = site
    content = b"weights" * 1000
    name = f"tiny-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    assert fetch(f"{address}/{name}") == cache / name
    assert [path.name for path in cache.iterdir()] == [name]
    assert (cache / name).read_bytes() == content


def test_a_download_with_the_wrong_digits_is_refused_and_leaves_nothing(cache: Path, site) -> None:
    folder, address = site
    (folder / "tiny-deadbeef.pth").write_bytes(b"not what was published")
    with pytest.raises(ModelError, match=r'invalid hash value \(expected "deadbeef"'):
        fetch(f"{address}/tiny-deadbeef.pth")
    assert list(cache.iterdir()) == []


def test_a_download_that_fails_is_one_sentence_that_names_the_ways_out(cache, nowhere) -> None:
    url = f"{nowhere}/tiny-deadbeef.pth"
    with pytest.raises(ModelError) as caught:
        fetch(url)
    text = str(caught.value)
    assert text.startswith(f"the weights cannot be downloaded from {url} (")
    assert text.endswith(
        "give it as --weights FILE, or use --weights none for seeded random weights"
    )
    assert "\n" not in text
    assert list(cache.iterdir()) == []


def test_a_page_that_is_not_there_is_a_failed_download(cache: Path, site) -> None:
    with pytest.raises(ModelError, match="404"):
        fetch(f"{site[1]}/tiny-deadbeef.pth")
    assert list(cache.iterdir()) == []


def test_a_cached_file_is_used_without_a_network(cache: Path, nowhere: str) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny-deadbeef.pth").write_bytes(b"weights")
    assert fetch(f"{nowhere}/tiny-deadbeef.pth") == cache / "tiny-deadbeef.pth"


def test_every_published_file_carries_digits_to_check_it_by() -> None:
    urls = {entry.url for name in builders() for entry in models.get_model_weights(name)}
    assert [url for url in sorted(urls) if not re.search(r"-[a-f0-9]{8,}\.pth$", url)] == []
