"""What `report` and `evaluate` leave in a run's directory, which is of that run and no other."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

REPORT, EVALUATION = "report", "evaluation"
MARK = b'<meta name="generator" content="camcli">'
"""By what a page is known to be camcli's."""
DATA = "data-"
"""How the folder of a page's data begins."""


def remove(directory: Path) -> None:
    """Remove the report and the evaluation of a run that goes; what is not camcli's stays."""
    report, evaluation = directory / REPORT, directory / EVALUATION
    with contextlib.suppress(OSError):  # what cannot be read is not taken for camcli's
        if is_page(report / "index.html"):
            (report / "index.html").unlink()
            for data in report.glob(f"{DATA}*"):
                shutil.rmtree(data, ignore_errors=True)
    if _is_evaluation(evaluation / "evaluation.json"):
        for name in ("evaluation.json", "evaluation.csv"):
            (evaluation / name).unlink(missing_ok=True)
    for folder in (report, evaluation):
        with contextlib.suppress(OSError):  # another's files are in it, or it is none
            folder.rmdir()


def is_page(path: Path) -> bool:
    """Whether a file is a page of camcli's; False where there is none. Raises OSError."""
    try:
        with open(path, "rb") as file:
            return MARK in file.read(4096)
    except FileNotFoundError:
        return False


def _is_evaluation(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
        return bool({"camcli_version", "metrics"} <= content.keys())
    except (OSError, ValueError, AttributeError):
        return False
