"""What is no picture, too large or out of reach is a failure that says why, never a crash."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from camcli.images.decode import DecodeSettings, own_pillow
from tests.images.decoding import PREPARE, decoded, failed, huge_png


def bytes_of(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "stage", "said"),
    [
        ("cut.jpg", bytes_of(NOISE, "jpeg")[:2000], "decode", "truncated"),
        ("cut.png", bytes_of(NOISE, "png")[:2000], "decode", "truncated"),
        ("notes.jpg", b"# notes\nnot a picture\n", "decode", "not a picture"),
        ("empty.jpg", b"", "read", "the file is empty"),
    ],
)
def test_a_file_that_holds_no_whole_picture_is_a_final_failure(
    tmp_path: Path, name: str, content: bytes, stage: str, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = failed(tmp_path / name)
    assert said in outcome.message
    assert (outcome.stage, outcome.transient) == (stage, False)


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited for a writer"))
    signal.alarm(10)
    try:
        assert failed(tmp_path / "pipe.jpg").message == "not a regular file"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def lowest_free_descriptor() -> int:
    descriptor = os.dup(2)
    os.close(descriptor)
    return descriptor


def test_a_folder_with_a_pictures_name_is_refused_and_closed(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    before = lowest_free_descriptor()
    assert failed(tmp_path / "folder.jpg").message == "not a regular file"
    assert lowest_free_descriptor() == before


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    outcome = failed(tmp_path / "loop.jpg")
    assert outcome.message == "Too many levels of symbolic links"
    assert not outcome.transient


def test_a_file_that_has_gone_is_a_failure(tmp_path: Path) -> None:
    outcome = failed(tmp_path / "gone.jpg")
    assert (outcome.type, outcome.message) == ("FileNotFoundError", "No such file or directory")


def test_the_pixel_limit_is_checked_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded before the limit was checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    own_pillow()
    (tmp_path / "bomb.png").write_bytes(huge_png(60_000, 60_000))
    assert failed(tmp_path / "bomb.png").message == "60000x60000 is more than --max-pixels 10000"


def test_a_library_user_keeps_pillows_own_limit(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(huge_png(60_000, 60_000))
    generous = DecodeSettings(PREPARE, None, 10**12)
    assert failed(tmp_path / "bomb.png", generous).type == "DecompressionBombError"


def test_the_pixel_limit_is_inclusive(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "limit.png")
    Image.new("RGB", (101, 100)).save(tmp_path / "above.png")
    assert decoded(tmp_path / "limit.png").shape == (100, 100, 3)
    assert "more than --max-pixels" in failed(tmp_path / "above.png").message


def test_the_message_of_a_decoder_is_one_line_of_bounded_length(
    monkeypatch: pytest.MonkeyPatch, picture: Callable[..., Path]
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ValueError("first\nsecond " + 10_000 * "x")

    monkeypatch.setattr(Image, "open", broken)
    message = failed(picture("a.png")).message
    assert message.startswith("first second xxx")
    assert len(message) == 300


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_too_little_memory_is_a_failure_for_now_and_the_next_picture_is_decoded(
    tmp_path: Path,
) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png", compress_level=1)
    Image.new("RGB", (90, 90)).save(tmp_path / "small.png")
    program = """if True:
        import resource
        from camcli.images.decode import DecodeSettings, decode
        from camcli.records import ImageRef
        from tests.images.decoding import PREPARE
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 200 * 2**20,) * 2)
        for name in ("large.png", "small.png"):
            outcome = decode(ImageRef(name, name), DecodeSettings(PREPARE, None, 10**8))
            print(type(outcome).__name__, getattr(outcome, "transient", None))
    """
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout == "Failure True\nDecoded None\n"


def test_a_file_without_permission_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "secret.jpg")
    (tmp_path / "secret.jpg").chmod(0)
    tmp_path.chmod(0o755)
    program = """if True:
        import os
        from camcli.images.decode import DecodeSettings, decode
        from camcli.images.preprocess import Preprocessing
        from camcli.records import ImageRef
        half = (0.5, 0.5, 0.5)
        recipe = Preprocessing((8, 8), 8, half, half, "bilinear", "squash", "a test")
        if os.getuid() == 0:  # root may read everything
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        outcome = decode(ImageRef("secret.jpg", "secret.jpg"), DecodeSettings(recipe, None, 10**6))
        print(outcome.stage, outcome.transient, outcome.message)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "read True Permission denied\n"


@pytest.mark.parametrize(
    ("error", "transient", "message"),
    [
        (RuntimeError("the codec gave up"), False, "the codec gave up"),
        (KeyError("tile"), False, "'tile'"),
        (AssertionError(), False, "AssertionError"),
        (MemoryError(), True, "not enough memory"),
        (OSError(5, "Input/output error"), True, "Input/output error"),
        (RecursionError("too deep"), False, "too deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_decoder_raises_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    picture: Callable[..., Path],
    error: Exception,
    transient: bool,
    message: str,
) -> None:
    path = picture("a.png")

    def broken(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", broken)
    outcome = failed(path)
    assert (outcome.type, outcome.message) == (type(error).__name__, message)
    assert (outcome.stage, outcome.transient) == ("decode", transient)
    assert outcome.facts is not None
    assert outcome.facts.size == path.stat().st_size
