"""What a model's layers are and what their heads do, found on fixed synthetic pictures.

Synthetic, so that nothing recorded about a picture depends on which others were explained with
it: a resumed run, a shard and a single picture all see the same probe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from camcli.cam.grid import Grid, infer_grid
from camcli.cam.layers import Layer, feature_maps, find_layer
from camcli.cam.worth import Probe, bypassed, classify
from camcli.errors import DerivativeError, ModelError, UsageError
from camcli.models.loaded import LoadedModel
from camcli.models.precision import emulated

# Maps later than the default one are few: a transformer's last block has the most.
_LAST_MAPS = 16
_UNIFORM = 1e-5


def synthetic_pictures(model: LoadedModel) -> Tensor:
    """Two coloured gratings of different pitch, (2, 3, H, W), normalised as pictures are."""
    width, height = model.preprocessing.size
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5)[:, None] / height
    views = []
    for pitch in (5.0, 11.0):
        waves = [np.sin(2 * np.pi * (pitch * x * a + pitch * y * b) + a - b)
                 for a, b in ((1.0, 0.5), (0.3, 1.0), (0.8, -0.6))]  # fmt: skip
        views.append(np.round(127.5 * (1 + np.stack(waves, axis=-1))).astype(np.uint8))
    return model.inputs(views)


def layers_of(model: LoadedModel) -> list[Layer]:
    """Every feature map of the model, in the order in which they are computed."""
    with model.network.prepared():
        try:
            calls = model.network.calls(synthetic_pictures(model)[:1])
        except (RuntimeError, AssertionError, ValueError) as error:
            width, height = model.preprocessing.size
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"{model.name} cannot be run on pictures of {width}x{height} ({reason}); "
                "where --size was given, leave it away"
            ) from error
    return feature_maps(calls, model.preprocessing.size, model.classes.count)


def settled(model: LoadedModel, layers: Sequence[Layer]) -> LoadedModel:
    """The model in the precision that was asked for, or as it is where torch cannot run it so."""
    if model.precision == "fp32":
        return model
    try:
        model.capture(synthetic_pictures(model), layers)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        remark = (
            f"{model.name} cannot be run in {model.precision} ({str(error).splitlines()[0]}); "
            "its maps are in its own precision"
        )
        return replace(model, precision="fp32", remarks=(*model.remarks, remark))
    if emulated(model.precision, model.device):
        remark = (
            f"This CPU has no instructions for {model.precision} and is faster with "
            "--precision fp32."
        )
        return replace(model, remarks=(*model.remarks, remark))
    return model


def largest_map(model: LoadedModel) -> int:
    """Bytes of the largest output of a module, for one picture."""
    with model.network.prepared():
        calls = model.network.calls(synthetic_pictures(model)[:1])
    return 4 * max(
        (math.prod(call.shape) // call.shape[0] for call in calls if call.shape), default=1
    )


def input_layer(model: LoadedModel) -> Layer:
    """The network's normalised input, as the layer before all others."""
    width, height = model.preprocessing.size
    return Layer("input", "Input", "", 0, Grid("NCHW", 3, height, width), ("input",))


def bias_layers(model: LoadedModel) -> list[tuple[Layer, Tensor]]:
    """Every module output with places to which a bias is added, and that bias, (C,)."""
    biases = model.network.biases()
    found = []
    with model.network.prepared():
        calls = model.network.calls(synthetic_pictures(model)[:1])
    for call in calls:
        bias = biases.get(call.name)
        grid = infer_grid(call.shape, model.preprocessing.size)
        if bias is not None and grid is not None and grid.channels == len(bias):
            name = f"{call.name}:{call.call}"
            found.append((Layer(name, call.type, call.name, call.call, grid, (name,)), bias))
    if not found:
        raise UsageError(
            f"fullgrad needs layers that add a bias, of which {model.name} has none; use hirescam"
        )
    return found


def stages(model: LoadedModel, layers: Sequence[Layer], last: Layer) -> list[Layer]:
    """The last feature map of every size up to `last`, as they are computed.

    Of the outermost modules: the first convolutions of a stage still have the size of the one
    before, but are only one path through it. Maps that the score does not depend on are left out.
    """
    places = [layer for layer in layers[: layers.index(last)] if layer.grid.layout != "tokens"]
    outermost_last = sorted(places, key=lambda layer: -layer.name.count("."))
    by_size = {(layer.grid.height, layer.grid.width): layer for layer in [*outermost_last, last]}
    chosen = sorted(by_size.values(), key=layers.index)
    return [
        layer
        for layer, gradient in zip(chosen, _gradients(model, chosen), strict=True)
        if gradient is not None and bool(gradient.any())
    ]


def default_layer(model: LoadedModel, layers: Sequence[Layer]) -> Layer:
    """The last feature map that the score depends on, cell by cell.

    After a transformer's last attention only the class token goes on: the patch tokens' gradient
    is zero there, and the map is found in front of it.
    """
    late = list(layers[-_LAST_MAPS:])
    if not late:
        raise ModelError(
            f"{model.name} has no feature map with more than one place to explain, or none outside "
            "of forks and interfaces; give a network that keeps places, as convolutions do"
        )
    gradients = _gradients(model, late)
    for layer, gradient in reversed(list(zip(late, gradients, strict=True))):
        if _reaches(layer, gradient):
            return layer
    if all(gradient is None for gradient in gradients):
        raise ModelError(
            f"no gradient comes back from the score of {model.name} to any of its layers, as after "
            "no_grad, detach or argmax; trace or export it again with gradients enabled"
        )
    raise ModelError(
        f"the score of {model.name} ({model.weights}) depends on none of its layers: every "
        "gradient is zero, as with a classifier whose weights are zero; load trained weights"
    )


def chosen_layers(model: LoadedModel, names: Sequence[str]) -> list[Layer]:
    """The layers of those names; `auto` is the default one. A blank layer is a UsageError."""
    layers = layers_of(model)
    chosen = [
        default_layer(model, layers) if name == "auto" else _named(model, layers, name)
        for name in names
    ]
    distinct = list(dict.fromkeys(chosen))
    with model.network.prepared():
        logits, outputs = model.capture(synthetic_pictures(model), distinct)
        gradients = _gradients_of(logits.max(dim=1).values.sum(), outputs)
    for layer, gradient in zip(distinct, gradients, strict=True):
        if not _reaches(layer, gradient):
            better = default_layer(model, layers).name
            raise UsageError(
                f"the score of {model.name} does not depend on the places of '{layer.name}' "
                f"(their gradient is zero); use --layer {better}"
            )
    return distinct


def _named(model: LoadedModel, layers: Sequence[Layer], name: str) -> Layer:
    # A file is opened by its path, and called by its name alone.
    opened_by = model.weights if model.weights.endswith(model.name) else model.name
    module = getattr(model.network, "module", None)
    hidden = {} if module is None else dict(module.named_modules())
    if name.partition(":")[0] in hidden and not any(name in layer.names for layer in layers):
        raise UsageError(
            f"'{name}' of {model.name} is not visible as a layer: it did not run, has no map with "
            "places, or is inside a fork or behind an interface; list those that are: "
            f"camcli layers {opened_by}"
        )
    return find_layer(layers, name, model.name, opened_by)


def probe(model: LoadedModel, layer: Layer) -> Probe:
    """What the head after a layer does with A := 0, A and 2A (see `cam.worth.classify`)."""
    x = synthetic_pictures(model)
    with model.network.prepared():
        once, (output,) = model.capture(x, [layer])
        (gradient,) = torch.autograd.grad(_every_class(once), [output])
        return _probed(model, x, layer, once.detach(), gradient)


def probes(model: LoadedModel, layers: Sequence[Layer]) -> Iterator[Probe | None]:
    """The same for each of the layers, None where the score does not depend on its places.

    Costs one recorded forward pass for all, and for every layer one forward pass of two pictures,
    or two where nothing passes it by.
    """
    x = synthetic_pictures(model)
    with model.network.prepared():
        behind, once, outputs = _captured(model, layers)
        score = once.max(dim=1).values.sum()
        reached = _gradients_of(score, outputs, retain_graph=True)
        gradients = _gradients_of(_every_class(once), outputs)
        once = once.detach()
        del outputs, score
        found = dict(zip(behind, zip(reached, gradients, strict=True), strict=True))
        for layer in layers:
            own, every = found.get(layer, (None, None))
            if every is None or not _reaches(layer, own):
                yield None
            else:
                yield _probed(model, x, layer, once, every)


def explainable(model: LoadedModel, layers: Sequence[Layer]) -> list[Layer]:
    """The layers on whose places the score depends."""
    gradients = _gradients(model, layers)
    return [layer for layer, g in zip(layers, gradients, strict=True) if _reaches(layer, g)]


def _probed(model: LoadedModel, x: Tensor, layer: Layer, once: Tensor, gradient: Tensor) -> Probe:
    with torch.no_grad():
        zero = model.logits(x, {layer: torch.zeros_like})
        # Where something passes the layer by, doubling it tells nothing more.
        past = bypassed(zero, once)
        twice = once if past else model.logits(x, {layer: lambda activation: 2 * activation})
    maps = layer.grid.maps(gradient).float()
    spread = (maps - maps.mean(dim=(2, 3), keepdim=True)).abs().max()
    uniform = bool(spread <= _UNIFORM * maps.abs().max()) and not layer.grid.prefix
    return classify(zero, once, twice, uniform)


def _every_class(logits: Tensor) -> Tensor:
    """A ReLU after the layer may be open everywhere for one class, and not for all at once."""
    return logits.square().sum()


def _reaches(layer: Layer, gradient: Tensor | None) -> bool:
    return gradient is not None and bool(layer.grid.maps(gradient).any())


def _gradients(model: LoadedModel, layers: Sequence[Layer]) -> list[Tensor | None]:
    """The gradient of the predicted class's logit at each layer; None where there is no path."""
    with model.network.prepared():
        behind, logits, outputs = _captured(model, layers)
        found = _gradients_of(logits.max(dim=1).values.sum(), outputs)
    by_layer = dict(zip(behind, found, strict=True))
    return [by_layer.get(layer) for layer in layers]


def _captured(
    model: LoadedModel, layers: Sequence[Layer]
) -> tuple[Sequence[Layer], Tensor, list[Tensor]]:
    """The layers, logits and the layers' outputs, from one recorded pass where that can be.

    Where an operator has no derivative, only the layers behind it; its error where none is.
    """
    x = synthetic_pictures(model)

    def differentiable(layer: Layer) -> bool:
        try:
            model.capture(x, [layer])
        except DerivativeError:
            return False
        return True

    try:
        return layers, *model.capture(x, layers)
    except DerivativeError:
        behind = [layer for layer in layers if differentiable(layer)]
        if not behind:
            raise
    return behind, *model.capture(x, behind)


def _gradients_of(
    score: Tensor, outputs: Sequence[Tensor], retain_graph: bool = False
) -> list[Tensor | None]:
    if not score.requires_grad:
        return [None] * len(outputs)
    found = torch.autograd.grad(score, outputs, allow_unused=True, retain_graph=retain_graph)
    return list(found)
