"""`camcli study build` and `camcli study score`"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from camcli import config as settings
from camcli.cli.console import complain, counted, emit, progress, say, shown
from camcli.cli.options import with_settings
from camcli.errors import UsageError

app = typer.Typer(
    help="Have people judge maps: a blinded page, and what its answers say.", no_args_is_help=True
)
_PROTOCOLS = ("pairs", "classes")


@app.callback()
def _group() -> None:
    pass


@app.command("build", epilog="Example: camcli study build out --methods hirescam,eigencam -o study")
@with_settings(("max_pixels", "quiet", "progress"))
def build(
    outputs: Annotated[
        list[Path], typer.Argument(help="One run, or two, that camcli explain has written.")
    ],
    to: Annotated[Path, typer.Option("-o", "--output", help="Directory of the study.")],
    methods: Annotated[
        str, typer.Option(help="Two methods of one run, or one for each run.", metavar="A[,B]")
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="pairs: which of two maps is more reliable. classes: which class is seen in one.",
            metavar="|".join(_PROTOCOLS),
        ),
    ] = "pairs",
    pictures: Annotated[
        int, typer.Option(help="At most so many; for classes, each counts.", metavar="N", min=1)
    ] = 40,
    truth: Annotated[
        str | None,
        typer.Option(
            help="Only pictures predicted right; their classes.", metavar="csv:FILE|folder"
        ),
    ] = None,
    choices: Annotated[
        int, typer.Option(help="Classes to choose from.", metavar="N", min=2, max=9)
    ] = 4,
    size: Annotated[
        int, typer.Option(help="Longest side of pictures.", metavar="PIXELS", min=64, max=2048)
    ] = 480,
    seed: Annotated[
        int | None, typer.Option(help="Of choice, order and sides (default: random).", min=0)
    ] = None,
    **flags: Any,
) -> None:
    """Make a page, study.html, that shows maps without saying whose they are, and its key.

    The page is one file that works without a network; raters open it, answer, and send back the
    file that it saves. Keep key.json to yourself. Pictures are those that both sides explained and
    that, between models, both predict alike: with --truth, right.
    """  # fmt: skip
    import secrets

    from camcli.images.decode import own_pillow
    from camcli.study.arms import arms_of
    from camcli.study.building import Builder, Plan, remarks

    if protocol not in _PROTOCOLS:
        raise UsageError(f"--protocol must be one of {', '.join(_PROTOCOLS)}, not '{protocol}'")
    given = {name: settings.parse(name, value, "--" + name.replace("_", "-"))
             for name, value in flags.items() if value is not None}  # fmt: skip
    arms = arms_of(outputs, [name.strip() for name in methods.split(",") if name.strip()])
    if protocol == "pairs" and len(arms) < 2:
        raise UsageError("--protocol pairs compares two sides; give two methods or two runs")
    own_pillow()
    plan = Plan(
        arms, protocol, pictures, secrets.randbits(32) if seed is None else seed, truth, choices,
        size, given.get("max_pixels", settings.Config.max_pixels),
    )  # fmt: skip
    quiet = given.get("quiet", False)
    builder = Builder(plan, complain)
    with progress(quiet, given.get("progress", True)) as bar:
        number = builder.build(to, bar.advance)
    if not quiet:
        for remark in remarks(builder):
            say(f"camcli: {remark}")
        say(f"camcli: {counted(number, 'question')}: {shown(str(to))}/study.html; keep key.json")


@app.command("score", epilog="Example: camcli study score study answers.json")
def score(
    study: Annotated[Path, typer.Argument(help="The directory of the study, with its key.")],
    answers: Annotated[list[Path], typer.Argument(help="The files that raters have sent back.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
) -> None:
    """Say what the answers to a study come to: means, intervals, a test, agreement.

    Intervals draw items and raters again (95 %, percentiles); p is of an exact sign-flip test over
    items; agreement is Krippendorff's alpha. Of two answers of a rater to an item the last counts.
    """
    from camcli.study.answers import collect, read_key
    from camcli.study.scoring import score as scored

    key = read_key(study)
    collected = collect(key, answers)
    found = scored(key, collected, seed)
    for rater, number in collected.replaced.items():
        say(shown(f"camcli: '{rater}' answered {counted(number, 'item')} again; the last counts"))
    if as_json:
        emit(json.dumps(found).encode() + b"\n")
        return
    for line in _pairs(found) if key["protocol"] == "pairs" else _classes(found):
        print(shown(line))


def _pairs(found: dict[str, Any]) -> list[str]:
    prefers = found["prefers"]
    return [
        _counts(found),
        f"A  {_arm(found, 'A')}: more reliable in {prefers['A']:.0%} of answers",
        f"B  {_arm(found, 'B')}: more reliable in {prefers['B']:.0%} of answers",
        f"preference for B  {_shown(found['preference'])}  (-2: A clearly, +2: B clearly)",
        f"sign-flip test    p = {found['p']:.3g}",
        f"agreement         alpha = {_figure(found['alpha'])} (ordinal)",
    ]


def _classes(found: dict[str, Any]) -> list[str]:
    lines = [_counts(found)]
    for name, figures in found["by_arm"].items():
        lines.append(f"{name}  {_arm(found, name)}")
        lines.append(f"   class told  {_shown(figures['accuracy'])}")
        lines.append(f"   focus       {_shown(figures['focus'])}  (1: all over, 5: one place)")
    lines.append(f"chance            {found['chance']:.3g}")
    if "accuracy_p" in found:
        lines.append(f"sign-flip test    class p = {found['accuracy_p']:.3g}, "
                     f"focus p = {found['focus_p']:.3g}")  # fmt: skip
    alphas = _figure(found["class_alpha"]), _figure(found["focus_alpha"])
    lines.append(f"agreement         alpha = {alphas[0]} (class), {alphas[1]} (focus)")
    return lines


def _counts(found: dict[str, Any]) -> str:
    parts = [counted(found[what], what[:-1]) for what in ("items", "raters", "answers")]
    return ", ".join(parts)


def _arm(found: dict[str, Any], name: str) -> str:
    arm = found["arms"][name]
    return f"{arm['method']}, {arm['model']}, {arm['output']}"


def _shown(estimate: dict[str, Any]) -> str:
    if estimate["mean"] is None:
        return "no answers"
    low, high = estimate["interval"]
    return f"{estimate['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _figure(value: float | None) -> str:
    return "not to be told" if value is None else f"{value:.2f}"
