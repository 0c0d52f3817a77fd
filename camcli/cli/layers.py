"""`camcli layers`"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from camcli import config as settings
from camcli.cli.console import complain, progress, say, shown
from camcli.cli.options import with_settings
from camcli.cli.process import own_process
from camcli.cli.request import model_request
from camcli.config import Config
from camcli.errors import UsageError
from camcli.registry import METHODS

if TYPE_CHECKING:
    from camcli.cam.layers import Layer
    from camcli.models.loaded import LoadedModel
    from camcli.probing import LayerProbe, LayerWorth, Spread
    from camcli.records import ImageRef

_FAILURES = 3
_SHOWN = 12
_HALF = (0.5, 0.5, 0.5)


@with_settings(("arch", "trust_model", "output_key", "output_index", "mean", "std"))
def command(
    model: Annotated[str, typer.Argument(help="A model; see camcli models.")],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(help="With --probe: more of its pictures.", metavar="[PICTURE]..."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="As for explain. The layers do not depend on them, classes and errors "
            "do. (default: none, that is random; the built-in model's own)",
            metavar="DEFAULT|NAME|FILE|none",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the network's view in pixels.", min=1)
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe",
            help="Measure on these pictures and folders how far maps at the last layers account "
            "for the score.",
            metavar="PICTURE...",
        ),
    ] = None,
    all_layers: Annotated[
        bool, typer.Option("--all", help=f"With --probe: every layer, not the last {_SHOWN}.")
    ] = False,
    no_probe: Annotated[
        bool,
        typer.Option(
            "--no-probe",
            help="Leave out the classes, which cost one or two "
            "forward passes of two pictures for every layer.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a layer.")] = False,
    **flags: Any,
) -> None:
    """List the layers of a model that can be explained: grid, channels, what follows, type.

    A star marks the one that --layer auto takes. A layer that is called several times is NAME:K
    for its K-th call. Names in brackets are other names of the same map. What follows a layer is
    exact (maps can account for the whole score), first_order, scale_invariant or bypassed; a dash
    marks layers on whose places the score does not depend.

    Example: camcli layers efficientnet_lite0
    """  # fmt: skip
    from camcli.images.discover import Inputs, Walk

    if pictures and not probe:
        raise UsageError(f"'{pictures[0]}': pictures are measured with --probe {pictures[0]}")
    refs = Walk(Inputs((*probe, *(pictures or ())))).some() if probe else None
    loaded = _opened(flags | {"model": model, "weights": weights}, size, bool(probe))
    if refs is None:
        _list(loaded, not no_probe, as_json)
        return
    _measure(loaded, refs, all_layers, as_json)


def _measure(
    loaded: LoadedModel, refs: Iterable[ImageRef], all_layers: bool, as_json: bool
) -> NoReturn:
    from camcli.probing import LayerProbe, candidates

    own_process()
    probing = LayerProbe(loaded, candidates(loaded, None if all_layers else _SHOWN))
    failed = 0
    with progress(quiet=False, wanted=True) as bar:
        for failure in probing.measure(refs, Config.max_pixels):
            bar.advance()
            if failure is not None:
                failed += 1
                complain(f"{failure.ref.path}: {failure.message}")
    _measured(probing, as_json)
    raise typer.Exit(_FAILURES if failed else 0)


def _opened(flags: dict[str, Any], size: int | None, measured: bool) -> LoadedModel:
    """The model on the CPU; what its architecture does not need to be known is not asked for."""
    from camcli.models import builtin
    from camcli.models.opening import open_request

    chosen, _ = settings.resolve(flags | {"device": "cpu"}, {}, None)
    request = model_request(chosen)
    named = request.name.isidentifier() or request.name.startswith("timm:")
    recipe = dict(request.preprocessing)
    if size is not None:
        recipe |= {"size": (size, size), "resize": size}
    if not named and not measured:  # layers and their shapes are the same for any colours
        recipe = {"mean": _HALF, "std": _HALF} | recipe
    weights = flags["weights"] or ("none" if named and request.name != builtin.NAME else "DEFAULT")
    return open_request(dataclasses.replace(request, preprocessing=recipe, weights=weights))


def _list(model: LoadedModel, classes: bool, as_json: bool) -> None:
    from camcli.models.inspection import default_layer, layers_of, probes

    layers = layers_of(model)
    default = default_layer(model, layers)
    width = max(len(layer.name) for layer in layers)
    found = probes(model, layers) if classes else (None for _ in layers)
    for layer, own in zip(layers, found, strict=True):
        score = own.score if own is not None else None
        if as_json:
            known = {"score": score} if classes else {}
            print(json.dumps(_facts(layer, layer == default) | known))
            continue
        others = f"  ({', '.join(layer.names[1:])})" if layer.names[1:] else ""
        column = f"{score or '-':<15}  " if classes else ""
        print(f"{_start(layer, layer == default, width)}  {column}{layer.type}{others}", flush=True)
    say(f"camcli: {len(layers)} layers of {model.name}; --layer auto is {default.name}")
    if classes:
        _say_weights(model)
    _say_remarks(model, measured=False)


def _start(layer: Layer, default: bool, width: int) -> str:
    mark = "*" if default else " "
    return f"{mark} {layer.name:<{width}}  {layer.grid!s:>9}  {layer.grid.channels:>5}"


def _facts(layer: Layer, default: bool) -> dict[str, Any]:
    return {
        "layer": layer.name,
        "names": layer.names,
        "type": layer.type,
        "grid": [layer.grid.height, layer.grid.width],
        "channels": layer.grid.channels,
        "default": default,
    }


def _say_weights(model: LoadedModel) -> None:
    say(f"camcli: what follows each layer was probed with weights {model.weights}")
    if model.weights.startswith("none"):
        say("camcli: fresh weights have no biases, so that much looks exact that is not with "
            "trained ones; give --weights")  # fmt: skip


def _say_remarks(model: LoadedModel, measured: bool) -> None:
    """What was assumed; not of labels, nor of how pictures are prepared where that is not used."""
    from camcli.models.assembly import prepared_remark
    from camcli.models.labels import named_remark

    unsaid = [named_remark(model.classes, model.labels)]
    if not measured:
        unsaid.append(prepared_remark(model.preprocessing))
    for sentence in model.remarks:
        if sentence not in unsaid:
            say(f"camcli: {shown(sentence)}")


def _measured(probing: LayerProbe, as_json: bool) -> None:
    records = probing.records()
    if as_json:
        for record in records:
            print(json.dumps(_facts(record.layer, record.default) | _figures(record)))
    else:
        for line in _table(records):
            print(line)
    model, pictures = probing.engine.model, records[-1].pictures
    say(f"camcli: {len(records)} layers of {model.name}, the predicted class of {pictures:,} "
        "pictures; error: |score change - sum of the map| / score change")  # fmt: skip
    say(f"camcli: {_conclusion(records)}")
    _say_weights(model)
    _say_remarks(model, measured=True)


def _figures(record: LayerWorth) -> dict[str, Any]:
    def spreads(values: dict[str, Spread | None]) -> dict[str, Any]:
        return {name: None if s is None else vars(s) for name, s in values.items()}

    return {
        "score": record.score,
        "pictures": record.pictures,
        "completeness_error": spreads(record.completeness_error),
        "sum_over_score_change": spreads(record.ratio),
    }


def _table(records: Iterable[LayerWorth]) -> Iterable[str]:
    records = list(records)
    width = max(len("layer"), *(len(record.layer.name) for record in records))
    errors = records[0].completeness_error
    titles = "".join(f"  {METHODS[name].title + ' error':<17}" for name in errors)
    yield f"{'':{width + 37}}{titles}  sum / score change"
    columns = "".join(f"  {'median':>7}  {'largest':>8}" for _ in errors)
    yield f"  {'layer':<{width}}  {'grid':>9}  {'chan.':>5}  {'class':<15}{columns}  HiResCAM"
    for record in records:
        line = f"{_start(record.layer, record.default, width)}  {record.score:<15}"
        for spread in record.completeness_error.values():
            median, high = ("-", "-") if spread is None else (_short(spread.median),
                                                              _short(spread.high))  # fmt: skip
            line += f"  {median:>7}  {high:>8}"
        yield f"{line}  {_ratio(record)}"


def _short(value: float) -> str:
    return f"{value:.2g}"


def _ratio(record: LayerWorth) -> str:
    """`1.5–2.9×` where the sums are not the score change."""
    spread = record.ratio["hirescam"]
    if record.score != "first_order" or spread is None:
        return "-"
    low, high = _short(spread.low), _short(spread.high)
    return f"{low}×" if low == high else f"{low}–{high}×"


def _conclusion(records: list[LayerWorth]) -> str:
    """Up to where the network can be explained exactly, and what one layer earlier costs."""
    records = [record for record in records if record.score != "bypassed"] or records
    exact = len(records)
    while exact and records[exact - 1].score == "exact":
        exact -= 1
    if exact == len(records):
        last = records[-1]
        return f"maps at {last.layer.name} cannot account for the score exactly: {last.score}"
    text = f"maps can account for the score exactly from {records[exact].layer.name} on"
    if exact == 0:
        return f"{text}, the earliest layer measured"
    before = records[exact - 1]
    cost = f"sums are {_ratio(before)} the score change"
    return f"{text}; at {before.layer.name} before it, {before.score}" + (
        f", {cost}" if before.score == "first_order" else ""
    )
