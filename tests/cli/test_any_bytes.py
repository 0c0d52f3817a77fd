"""Files that a user names, with any bytes in them: a result, or one error in a sentence."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camcli import config
from camcli.cam.targets import Classes, NoTargetError, parse_target
from camcli.errors import CamcliError
from camcli.images.discover import Inputs, Walk
from camcli.models.labels import read_labels
from camcli.records import ImageRef

CLASSES = Classes(4, ("cat", "dog", "bird", "fish"))
# Bytes that are anything, and text that is nearly right.
PIECES = st.sampled_from([
    b"path", b"class", b"label", b"index", b"cat", b"dog", b"a.png", b",", b";", b'"', b"\n", b"\r",
    b"\r\n", b"\0", b"\xef\xbb\xbf", b"\xff", b"[", b"]", b"{", b"}", b":", b"=", b"1", b"-1",
    b"1e999", b"9" * 5000, b"null", b"true", b"[" * 3000, b" ", b"\t", b"#", b"'", b"\\",
    b"\\ud800", b"\xc2\xb2",
    b"method", b"alpha", b"model", b"batch-size", b"include", b"1979-05-27", b"nan", b"[[a]]",
    b"/", b"..", b"images", b"\xe2\x80\xa8",
])  # fmt: skip
BEGINNINGS = [b"", b"path,class\n", b"index,label\n", b'{"0": ', b"[", b"alpha = ", b"method = ["]
CONTENT = st.builds(
    bytes.__add__,
    st.sampled_from(BEGINNINGS),
    st.one_of(
        st.binary(max_size=200),
        st.lists(PIECES, max_size=30).map(b"".join),
        st.text(string.printable, max_size=100).map(str.encode),
    ),
)
ONE_FILE = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sentence(error: CamcliError) -> None:
    assert str(error)
    assert "Traceback" not in str(error)


@pytest.mark.parametrize("suffix", [".txt", ".json", ".csv"])
@ONE_FILE
@given(content=CONTENT)
def test_labels(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(content)
    try:
        labels = read_labels(path)
    except CamcliError as error:
        sentence(error)
    else:
        assert labels
        assert all(isinstance(label, str) for label in labels)


@ONE_FILE
@given(content=CONTENT)
def test_a_table_of_targets(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "targets.csv"
    path.write_bytes(content)
    try:
        choose = parse_target(f"csv:{path}", CLASSES)
    except CamcliError as error:
        sentence(error)
    else:
        with contextlib.suppress(NoTargetError):
            (target,) = choose(ImageRef("a.png", "a.png"), [0, 1, 2, 3])
            assert target.index in range(4)


@ONE_FILE
@given(content=CONTENT)
def test_a_file_of_settings(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "camcli.toml"
    path.write_bytes(content)
    try:
        chosen, origins = config.resolve({}, {}, path)
    except CamcliError as error:
        sentence(error)
    else:
        assert origins.keys() == config.options().keys()
        assert chosen.method


@pytest.mark.parametrize("null", [False, True])
@ONE_FILE
@given(content=CONTENT)
def test_a_list_of_files(null: bool, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    try:
        refs = list(Walk(Inputs(list_files=(str(path),), null_separated=null)).some())
    except CamcliError as error:
        sentence(error)
    else:
        separator = b"\0" if null else b"\n"
        assert 1 <= len(refs) <= content.count(separator) + 1
        assert len({ref.key for ref in refs}) == len(refs)
        for ref in refs:
            assert ".." not in ref.key.split("/")
            assert not ref.key.startswith("/")
            ref.key.encode()
