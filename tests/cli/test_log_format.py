"""`--log-format json`: every message on stderr is one event."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from camcli.cli import console

SMALL = ("--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "1")
NONE = dict.fromkeys(
    (
        "found",
        "explained",
        "failed",
        "changed",
        "already_done",
        "failed_earlier",
        "redrawn",
        "ignored",
    ),
    0,
)


@pytest.fixture
def folder(picture: Callable) -> Path:
    """Two pictures, something that is none, and a text."""
    for name in ("images/a.png", "images/c.png"):
        picture(name)
    path = picture("images/d.png").parent
    (path / "b.png").write_bytes(b"no picture")
    (path / "d.png").rename(path / "d.txt")
    return path


@pytest.fixture
def events(cli: Callable, tmp_path: Path) -> Callable[..., tuple[int, list[dict]]]:
    """The status of a run, and its events without their time, which every one has."""

    def run(*arguments: object) -> tuple[int, list[dict]]:
        done = cli("explain", *arguments, "-o", tmp_path / "out", "--log-format", "json")
        found = [json.loads(line) for line in done.stderr.splitlines()]
        times = [datetime.fromisoformat(event.pop("time")) for event in found]
        assert times == sorted(times)
        assert all(time.utcoffset() is not None for time in times)
        for event in found:
            if event["event"] == "finished":
                assert event.pop("seconds") >= 0
        return done.status, found

    return run


def test_every_event_of_a_run_has_its_fields(
    events: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    out = str(tmp_path / "out")
    status, told = events(folder, *SMALL, "-v")
    assert status == 3
    assert told[0].keys() == {"event", "version", "output"}
    assert (told[0]["event"], told[0]["output"]) == ("started", out)
    explained = [event for event in told if event["event"] == "explained"]
    assert [event["key"] for event in explained] == ["a.png", "c.png"]
    for event in explained:
        assert event.keys() == {"event", "path", "key", "index", "label", "probability"}
        assert event["path"] == str(folder / event["key"])
        assert 0 <= event["probability"] <= 1
    (failed,) = [event for event in told if event["event"] == "failed"]
    assert failed == {
        "event": "failed",
        "path": str(folder / "b.png"),
        "key": "b.png",
        "error": {
            "type": "UnidentifiedImageError",
            "message": "not a picture that can be identified",
            "stage": "decode",
            "transient": False,
        },
    }
    progress = [event for event in told if event["event"] == "progress"]
    assert len(progress) == 3
    assert progress[-1]["counts"] == NONE | {"found": 3, "explained": 2, "failed": 1}
    remarks = [event for event in told if event["event"] == "remark"]
    assert any("account for the class score exactly" in remark["message"] for remark in remarks)
    assert told[-1] == {
        "event": "finished",
        "exit_status": 3,
        "counts": NONE | {"found": 3, "explained": 2, "failed": 1, "ignored": 1},
        "output": out,
    }
    assert {event["event"] for event in told} == {
        "started", "explained", "failed", "progress", "remark", "finished",
    }  # fmt: skip


def test_a_run_that_is_stopped_says_by_what(events: Callable, folder: Path) -> None:
    status, told = events(folder, *SMALL, "--fail-fast")
    assert status == 3
    assert told[-2] == {"event": "stopped", "reason": "the first failure (--fail-fast)"}
    assert told[-1]["event"] == "finished"


def test_quiet_leaves_failures_errors_and_a_bad_end(events: Callable, folder: Path) -> None:
    status, told = events(folder, *SMALL, "-q")
    assert status == 3
    assert [event["event"] for event in told] == ["failed", "finished"]
    assert events(folder, *SMALL, "-q") == (0, [])  # known, and not repeated
    status, told = events(folder, *SMALL, "-q")
    assert (status, told) == (0, [])


def test_a_dry_run_is_planned_and_finished(events: Callable, folder: Path) -> None:
    status, told = events(folder, *SMALL, "-n")
    assert status == 0
    assert [event["event"] for event in told] == ["started", "planned", "finished"]
    assert told[1] == {"event": "planned", "pending": 3, "reasons": {"new": 3}}


@pytest.mark.parametrize(
    ("options", "status", "kind"),
    [
        (["--model", "resnet51"], 2, "UsageError"),  # of the run,
        (["--alpha", "2"], 2, "UsageError"),  # of the settings,
        (["--include", "nothing"], 4, "NoInputsError"),  # of the inputs
    ],
)
def test_an_error_is_an_event_before_the_last(
    options: list[str], status: int, kind: str, events: Callable, folder: Path
) -> None:
    ended, told = events(folder, *SMALL[2:], *options)
    assert ended == status
    error, finished = told[-2:]
    assert error.keys() == {"event", "error"}
    assert error["error"].keys() == {"type", "message"}
    assert error["error"]["type"] == kind
    assert (finished["event"], finished["exit_status"]) == ("finished", status)


def test_the_format_may_come_from_the_environment_or_a_file(
    cli: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "log.toml"
    settings.write_text('log-format = "json"\n')
    arguments = ("explain", folder, "-o", tmp_path / "out", "-n")
    assert json.loads(cli(*arguments, "--config", settings).stderr.splitlines()[-1])
    monkeypatch.setenv("CAMCLI_LOG_FORMAT", "json")
    assert json.loads(cli(*arguments).stderr.splitlines()[-1])["exit_status"] == 0
    assert json.loads(cli(*arguments, "--alpha", "x").stderr.splitlines()[-1])["exit_status"] == 2
    assert cli(*arguments, "--log-format", "text").stderr.startswith("camcli: 3 would be")


def test_names_that_are_no_text_are_json_all_the_same(events: Callable, folder: Path) -> None:
    os.rename(folder / "b.png", os.fsdecode(os.fsencode(folder) + b"/b\xff\n.png"))
    _, told = events(folder, *SMALL)
    (failed,) = [event for event in told if event["event"] == "failed"]
    path = base64.b64decode(failed["path_b64"])
    assert path == os.fsencode(folder) + b"/b\xff\n.png"
