"""A decoder that crashes or hangs costs its own picture, and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli.errors import CamcliError
from camcli.images.decode import DecodeSettings, decode
from camcli.images.isolated import IsolatedDecoder
from camcli.images.preprocess import Preprocessing
from camcli.records import Decoded, Failure, ImageRef
from tests.images.decoding import SETTINGS, failing_codec


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_codec(tmp_path / "site", monkeypatch)


@pytest.fixture
def pictures(tmp_path: Path, picture: Callable[..., Path]) -> list[ImageRef]:
    paths = [picture(f"in/{n:02}.png", seed=n) for n in range(12)]
    return [ImageRef(str(path), path.name) for path in paths]


def decoded_by(isolated: IsolatedDecoder, refs: list[ImageRef]) -> list[Decoded | Failure]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda ref: decode(ref, SETTINGS, isolated.decode), refs))


def assert_same(one: Decoded | Failure, other: Decoded | Failure) -> None:
    if isinstance(one, Failure):
        assert one == other
        return
    assert isinstance(other, Decoded)
    np.testing.assert_array_equal(one.view, other.view)
    assert one.view.dtype == other.view.dtype
    assert (one.ref, one.facts, one.exif_orientation) == (
        other.ref, other.facts, other.exif_orientation,
    )  # fmt: skip
    assert one.geometry == other.geometry
    assert (one.canvas is None) == (other.canvas is None)
    if one.canvas is not None and other.canvas is not None:
        assert (one.canvas.mode, one.canvas.size) == (other.canvas.mode, other.canvas.size)
        assert one.canvas.tobytes() == other.canvas.tobytes()


def processes(isolated: IsolatedDecoder) -> list[int]:
    nursery = isolated._nursery._process
    assert nursery is not None
    return [nursery.pid, *(each._pid for each in isolated._workers if each._pid is not None)]


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie, which only waits to be counted, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.02)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("overlay_size", [None, 40])
def test_isolation_changes_nothing_in_what_is_decoded(
    tmp_path: Path, picture: Callable[..., Path], fit: str, overlay_size: int | None
) -> None:
    half = (0.5, 0.5, 0.5)
    recipe = Preprocessing((24, 16), 32, half, half, "bicubic", fit, "a test")  # type: ignore[arg-type]
    settings = DecodeSettings(recipe, overlay_size, 10_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 30), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("I;16", (50, 30), 500).save(tmp_path / "deep.png")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    names = ["turned.jpg", "deep.png", "text.jpg", "empty.jpg", "gone.jpg"]
    paths = [picture("a.png"), picture("large.png", (200, 100)), *(tmp_path / n for n in names)]
    refs = [ImageRef(str(path), path.name) for path in paths]
    with IsolatedDecoder(1, 60) as isolated:
        for ref in refs:
            assert_same(decode(ref, settings), decode(ref, settings, isolated.decode))


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize(
    ("content", "kind", "message", "transient"),
    [
        (f"signal {signal.SIGSEGV:02}", "DecoderCrashError", "crashed (SIGSEGV)", False),
        (f"signal {signal.SIGABRT:02}", "DecoderCrashError", "crashed (SIGABRT)", False),
        (f"signal {signal.SIGKILL:02}", "DecoderCrashError", "killed (SIGKILL), as happens", True),
        ("exit", "DecoderCrashError", "ended with exit status 3", False),
        ("hang", "TimeoutError", "not decoded within 3 s (--decode-timeout)", False),
        ("memory", "MemoryError", "not enough memory", True),
    ],
)
def test_what_a_decoder_does_costs_its_own_picture_alone(
    tmp_path: Path, pictures: list[ImageRef], content: str, kind: str, message: str, transient: bool
) -> None:
    bad = [tmp_path / f"bad-{n}.jpg" for n in range(3)]
    for path in bad:
        path.write_text(content)
    first, second, third = (ImageRef(str(path), path.name) for path in bad)
    refs = [*pictures[:4], first, second, *pictures[4:9], third, *pictures[9:]]
    with IsolatedDecoder(2, 3 if content == "hang" else 60) as isolated:
        outcomes = decoded_by(isolated, refs)
    assert [outcome.ref for outcome in outcomes] == refs
    for outcome in outcomes:
        if outcome.ref in (first, second, third):
            assert isinstance(outcome, Failure)
            assert (outcome.type, outcome.stage, outcome.transient) == (kind, "decode", transient)
            assert message in outcome.message
            assert outcome.facts is not None
            assert len(outcome.facts.sha256) == 64
        else:
            assert_same(outcome, decode(outcome.ref, SETTINGS))


def test_a_process_that_decodes_loads_no_torch() -> None:
    program = "import sys, camcli.images.worker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_no_process_is_left_behind_after_the_end_or_an_exception(pictures: list[ImageRef]) -> None:
    with IsolatedDecoder(2, 60) as isolated:
        decoded_by(isolated, pictures)
        pids = processes(isolated)
        assert len(pids) == 3
    assert_gone(pids)
    with contextlib.suppress(KeyError), IsolatedDecoder(2, 60) as isolated:
        decoded_by(isolated, pictures)
        pids = processes(isolated)
        raise KeyError
    assert_gone(pids)


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("content", ["hang", "idle"])
def test_processes_end_with_a_parent_that_is_killed(
    tmp_path: Path, picture: Callable[..., Path], content: str
) -> None:
    (tmp_path / "hang.jpg").write_text(content)
    program = """if True:
        import sys, time
        from concurrent.futures import ThreadPoolExecutor
        from camcli.images.decode import decode
        from camcli.images.isolated import IsolatedDecoder
        from camcli.records import ImageRef
        from tests.images.decoding import SETTINGS, failing_codec
        with IsolatedDecoder(2, 60) as isolated, ThreadPoolExecutor(2) as pool:
            good = ImageRef(sys.argv[1], "a")
            for _ in pool.map(lambda ref: decode(ref, SETTINGS, isolated.decode), [good] * 4):
                pass
            for _ in range(2):
                pool.submit(decode, ImageRef(sys.argv[2], "b"), SETTINGS, isolated.decode)
            time.sleep(0.5)
            print(isolated._nursery._process.pid, *(w._pid for w in isolated._workers), flush=True)
            time.sleep(100)
    """
    command = [sys.executable, "-c", program, picture("a.png"), tmp_path / "hang.jpg"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        parent.kill()
    assert_gone(pids)


def test_signals_to_the_whole_group_leave_the_pictures_in_flight_to_the_run(
    pictures: list[ImageRef],
) -> None:
    with IsolatedDecoder(2, 60) as isolated:
        for _ in range(2):  # the first time it may not even have begun
            for pid in processes(isolated):
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    os.kill(pid, number)
            before = processes(isolated)
            assert all(isinstance(outcome, Decoded) for outcome in decoded_by(isolated, pictures))
            assert processes(isolated)[: len(before)] == before


def test_a_process_that_does_not_start_ends_the_run_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, pictures: list[ImageRef]
) -> None:
    for program, said in (("/bin/false", "it has ended"), ("/nowhere", "No such file")):
        monkeypatch.setattr(sys, "executable", program)
        with pytest.raises(CamcliError, match=f"{said}.*--no-isolate"):  # noqa: SIM117
            with IsolatedDecoder(1, 60) as isolated:
                decode(pictures[0], SETTINGS, isolated.decode)


def test_large_pictures_do_not_stay_in_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch, pictures: list[ImageRef]
) -> None:
    monkeypatch.setattr("camcli.images.isolated._MEMORY_KEPT", 1000)
    with IsolatedDecoder(1, 60) as isolated:
        assert isinstance(decode(pictures[0], SETTINGS, isolated.decode), Decoded)
        (process,) = isolated._workers
        assert os.fstat(process._memory).st_size == 0
        assert_same(decode(pictures[1], SETTINGS), decode(pictures[1], SETTINGS, isolated.decode))


@pytest.mark.usefixtures("codec")
def test_no_descriptor_is_left_open(tmp_path: Path, pictures: list[ImageRef]) -> None:
    (tmp_path / "bad.jpg").write_text(f"signal {signal.SIGSEGV:02}")
    bad = ImageRef(str(tmp_path / "bad.jpg"), "bad.jpg")
    before = os.listdir("/proc/self/fd")
    with IsolatedDecoder(2, 60) as isolated:
        decoded_by(isolated, [bad, pictures[0], bad])
        assert len(os.listdir("/proc/self/fd")) > len(before)
    assert len(os.listdir("/proc/self/fd")) == len(before)
