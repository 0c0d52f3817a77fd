"""`camcli evaluate`: over pictures and over runs, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from camcli import config
from camcli.cli.explain import job_of
from camcli.evaluation.subject import Subject
from camcli.registry import METRICS
from camcli.run import Run

SAMPLES = Path(__file__).parents[2] / "samples"
SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "4"]
METHODS = ["-m", "hirescam,layercam", "--target", "top:2"]
QUICK = ["--metrics", "average_drop,infidelity,max-sensitivity,sparseness,completeness_error"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "images"
    folder.mkdir()
    for name in ("chelsea.jpg", "coffee.jpg", "helmet.jpg"):
        shutil.copy(SAMPLES / name, folder)
    return folder


@pytest.fixture(scope="module")
def explained(images: Path) -> Path:
    """By this process, for the number of threads decides the last digit."""
    out = images.parent / "explained"
    told = dict(zip((flag.strip("-") for flag in SMALL[::2]), SMALL[1::2], strict=True))
    told = {name.replace("-", "_"): value for name, value in told.items()}
    told |= {"method": "hirescam,layercam", "target": "top:2", "output": str(out)}
    chosen, _ = config.resolve(told | {"isolate": False}, {}, None)
    for _ in Run(job_of(chosen, (str(images),), set())).records():
        pass
    return out


@pytest.fixture
def run(explained: Path, tmp_path: Path) -> Path:
    """A run of one's own, to damage."""
    return Path(shutil.copytree(explained, tmp_path / "run"))


def edited(run: Path, change: Callable[[dict], None]) -> None:
    path = run / "run.json"
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_and_its_pictures_have_the_same_figures_to_the_last_digit(
    cli: Callable, images: Path, run: Path, tmp_path: Path
) -> None:
    of_run = cli("evaluate", run, *QUICK)
    assert of_run.status == 0, of_run.stderr
    of_pictures = cli("evaluate", images, *SMALL, *METHODS, *QUICK, "-o", tmp_path / "out")
    assert of_pictures.status == 0, of_pictures.stderr
    assert of_run.stdout == of_pictures.stdout
    here, there = run / "evaluation", tmp_path / "out"
    assert sorted(os.listdir(here)) == sorted(os.listdir(there)) == [
        "evaluation.csv", "evaluation.json"]  # fmt: skip
    assert (here / "evaluation.csv").read_bytes() == (there / "evaluation.csv").read_bytes()
    one, other = (json.loads((d / "evaluation.json").read_bytes()) for d in (here, there))
    for name in ("metrics", "contradictions", "seed", "model", "preprocessing", "methods",
                 "layers", "target", "batch_size", "views_asked", "versions"):  # fmt: skip
        assert one[name] == other[name], name
    assert one["run"] == str(run)
    assert other["inputs"] == [str(images)]


def test_the_table_has_a_row_a_method_and_both_baselines(cli: Callable, run: Path) -> None:
    done = cli("evaluate", run, "--metrics", "sparseness,average_drop,hot_fraction", "--limit", "2")
    blocks = [block.splitlines() for block in done.stdout.split("\n\n") if block.strip()]
    table = [line.split() for line in blocks[0]]
    assert table[0] == ["faithfulness", "average_drop"]
    assert table[1:3] == [["better", "lower"], ["pictures", "2"]]
    assert [line[0] for line in table[3:]] == ["hirescam", "layercam", "(random)", "(edges)"]
    assert all(re.fullmatch(r"\d\.\d{3} ±\.\d{3}", " ".join(line[1:])) for line in table[3:])
    assert blocks[1][0].split() == ["complexity", "sparseness", "hot_fraction"]
    assert blocks[1][1].split() == ["better", "higher", "-"]
    assert done.stderr == f"camcli: 2 measured: {run}/evaluation\n"


def test_the_csv_has_a_line_for_every_picture_and_the_json_their_means(
    cli: Callable, run: Path
) -> None:
    cli("evaluate", run, "--metrics", "average_drop", "--seed", "7")
    lines = rows_of(run / "evaluation" / "evaluation.csv")
    assert len(lines) == 3 * 4
    assert {line["key"] for line in lines} == {"chelsea.jpg", "coffee.jpg", "helmet.jpg"}
    content = json.loads((run / "evaluation" / "evaluation.json").read_bytes())
    assert (content["seed"], content["status"]) == (7, "done")
    (metric,) = content["metrics"]
    for row in metric["rows"]:
        values = [float(line["value"]) for line in lines if line["method"] == row["method"]]
        assert row["n"] == 3
        assert row["mean"] == pytest.approx(sum(values) / 3)
        assert row["low"] <= row["mean"] <= row["high"]
        assert min(values) - 1e-12 <= row["low"]
        assert row["high"] <= max(values) + 1e-12


def test_a_costly_metric_measures_a_sample_of_the_others_pictures(
    cli: Callable, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "average_drop", replace(METRICS["average_drop"], pictures=1))
    cli("evaluate", run, "--metrics", "average_drop,sparseness")
    lines = rows_of(run / "evaluation" / "evaluation.csv")
    few = {line["key"] for line in lines if line["metric"] == "average_drop"}
    assert len(few) == 1
    assert len({line["key"] for line in lines if line["metric"] == "sparseness"}) == 3


def test_a_source_that_changed_or_is_gone_is_counted_and_the_others_are_measured(
    cli: Callable, picture: Callable, tmp_path: Path
) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        picture(f"in/{name}", seed=number)
    out = tmp_path / "out"
    cli("explain", tmp_path / "in", "-o", out, *SMALL, "-m", "hirescam")
    picture("in/a.png", seed=9)
    (tmp_path / "in" / "b.png").unlink()
    done = cli("evaluate", out, "--metrics", "sparseness")
    assert done.status == 3
    assert f"camcli: 1 measured, 2 failed: {out}/evaluation\n" in done.stderr
    assert "a.png: the picture has changed since it was explained" in done.stderr
    assert "b.png: No such file or directory" in done.stderr


def test_a_picture_that_cannot_be_read_is_a_line_and_status_3(
    cli: Callable, picture: Callable, tmp_path: Path
) -> None:
    picture("in/a.png")
    (tmp_path / "in" / "\x1b[31mb.jpg").write_text("no picture")
    done = cli("evaluate", tmp_path / "in", *SMALL, "-m", "hirescam", "--metrics", "sparseness",
               "-o", tmp_path / "out")  # fmt: skip
    assert done.status == 3
    assert "\\x1b[31mb.jpg: not a picture that can be identified\n" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "insertion_meen"], "no metric 'insertion_meen'; did you mean 'insertion_me"),
        (["--metrics", ","], "--metrics needs at least one name"),
        (["-m", "gradcam"], "says itself what --method was; leave it away"),
        (["--size", "32"], "says itself what --size was; leave it away"),
        ([SAMPLES], "is an explain run: evaluate it alone, without other inputs"),
    ],
)
def test_what_does_not_fit_a_run_is_a_usage_error(
    options: list[object], said: str, cli: Callable, explained: Path
) -> None:
    done = cli("evaluate", explained, *options)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_where_there_is_nothing_to_evaluate_one_sentence_says_so(
    cli: Callable, tmp_path: Path, run: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (run / "results.jsonl").write_text("")
    for arguments, status in (([], 2), ([tmp_path / "empty"], 4), ([tmp_path / "none"], 2),
                              ([run], 4)):  # fmt: skip
        done = cli("evaluate", *arguments, "-o", tmp_path / "out")
        assert (done.status, done.stdout) == (status, ""), done
        (sentence,) = done.stderr.splitlines()
        assert re.fullmatch(r"camcli: .+", sentence)


def test_a_run_without_maps_is_refused(cli: Callable, run: Path) -> None:
    edited(run, lambda content: content.update(write=["json", "overlay"]))
    done = cli("evaluate", run)
    assert done == (2, "", f"camcli: '{run}' was written with --write json,overlay; evaluating "
                           "needs json and npz\n")  # fmt: skip


def test_another_model_than_was_explained_is_refused(cli: Callable, run: Path) -> None:
    edited(run, lambda content: content["identity"].update(weights="f" * 64))
    done = cli("evaluate", run)
    assert (done.status, done.stdout) == (1, "")
    assert re.fullmatch(r"camcli: the weights of squeezenet1_1 are not those of .*; give back the "
                        r"model that was explained, or explain again\n", done.stderr)  # fmt: skip


def test_code_that_a_run_file_names_is_not_run_unasked(
    cli: Callable, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\n")
    name = f"{tmp_path}/evil.py:model"
    edited(run, lambda content: content["request"]["model"].update(name=name, trust=True))
    done = cli("evaluate", run)
    assert (done.status, done.stdout) == (2, "")
    assert "where you trust it to run, give --trust-model" in done.stderr
    assert not Path("ran").exists()


def without(*names: str) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return change


@pytest.mark.parametrize(
    "names",
    [("request",), ("request", "model", "name"), ("identity",), ("preprocessing",), ("batch_size",),
     ("preprocessing", "std"), ("write",), ("model", "activation"), ("cwd",)],
    ids="/".join,
)  # fmt: skip
def test_a_run_file_that_lacks_something_is_one_sentence(
    names: tuple[str, ...], cli: Callable, run: Path
) -> None:
    edited(run, without(*names))
    done = cli("evaluate", run, "--metrics", "sparseness")
    assert done.status in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_damaged_picture_of_a_run_is_a_failure(cli: Callable, run: Path) -> None:
    (run / "maps" / "coffee.jpg.npz").write_bytes(b"PK no more")
    (run / "json" / "helmet.jpg.json").write_text("{}")
    done = cli("evaluate", run, "--metrics", "sparseness")
    assert done.status == 3
    assert f"camcli: 1 measured, 2 failed: {run}/evaluation" in done.stderr


def test_of_a_run_that_goes_on_what_is_committed_is_evaluated(cli: Callable, run: Path) -> None:
    edited(run, lambda content: content.update(status="running"))
    done = cli("evaluate", run, "--metrics", "sparseness")
    assert done.status == 0
    assert "goes on or was killed: what it has committed so far was evaluated" in done.stderr


def test_an_interrupt_keeps_what_was_measured(
    cli: Callable, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(subject: Subject) -> Iterator[float]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from [0.5] * len(subject.cams)

    plain = METRICS["average_drop"]
    monkeypatch.setitem(METRICS, "average_drop", replace(plain, function=interrupted))
    done = cli("evaluate", run, "--metrics", "average_drop")
    assert done.status == 130
    assert "camcli: stopped by SIGINT; what was measured is kept" in done.stderr
    content = json.loads((run / "evaluation" / "evaluation.json").read_bytes())
    assert (content["status"], content["counts"]) == ("stopped", {"measured": 1, "failed": 0})


def test_a_file_that_is_called_like_a_formula_is_none_in_the_csv(
    cli: Callable, picture: Callable, tmp_path: Path
) -> None:
    picture("in/=1+1.png")
    cli("evaluate", tmp_path / "in", *SMALL, "-m", "hirescam", "--metrics", "sparseness", "-o",
        tmp_path / "out")  # fmt: skip
    assert {line["key"] for line in rows_of(tmp_path / "out" / "evaluation.csv")} == {"'=1+1.png"}


def test_help_lists_every_metric(cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = cli("evaluate", "--help").stdout
    for name in METRICS:
        assert name in text


def test_evaluating_leaves_the_run_as_it_was(cli: Callable, run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert cli("evaluate", run, "--metrics", "sparseness").status == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    assert cli("verify", run).status == 0
