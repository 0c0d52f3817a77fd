"""What holds for every method in the registry, seen from the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from camcli.engine import Engine
from camcli.errors import UsageError
from camcli.models.loaded import LoadedModel
from camcli.records import Decoded, Explanation
from camcli.registry import METHODS
from tests.conftest import as_model, live_in, noise_pictures

CLASSES, SIZE, BATCH = 5, 16, 3
TARGETS = "0,1-2,-3"
Maps = list[list[npt.NDArray[np.float32]]]
"""Every picture's maps, one a target."""

# What a network cannot serve: legrad needs attention, cam global average pooling and one linear
# layer, rules for ReLUs need ReLUs, and what fuses layers needs maps of several sizes.
RULES = {"guided_backprop", "deconvnet", "guided_gradcam", "guided_hirescam"}
FUSING = {name for name, method in METHODS.items() if method.scope == "layers"}
REFUSED = {"cnn": {"legrad"}, "vit": {"cam", *RULES, *FUSING}}
SERVED = [(net, name) for net in REFUSED for name in METHODS if name not in REFUSED[net]]
NOISY = {"random", "sscam", "smoothgradcampp"}

SLOW = {("vit", "iscam"), ("vit", "sscam")}
"""Those of which a map takes seconds."""
on_every_network = pytest.mark.parametrize(
    ("network", "name"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in SERVED],
)


class BlownError(Exception):
    """Of no kind that anything may catch."""


class Fuse(nn.Module):
    """Passes its input on; the call that brings `left` to zero raises."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.left = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.left -= 1
        if self.left == 0:
            raise BlownError
        return x


class SmallCNN(nn.Module):
    """Three stages of maps, 16x16, 8x8 and 4x4, then global average pooling and one linear layer.

    Averages between the stages: a maximum that two cells share is given to the left one, which
    does not commute with flips.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(stage(3, 6), stage(6, 8), stage(8, 8))
        self.fuse = Fuse()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for number, part in enumerate(self.stages):
            x = part(F.avg_pool2d(x, 2) if number else x)
        logits: Tensor = self.head(self.fuse(x.mean(dim=(2, 3))))
        return logits


def stage(given: int, made: int) -> nn.Sequential:
    convolution = nn.Conv2d(given, made, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(made), nn.ReLU(inplace=True))


def cnn() -> SmallCNN:
    torch.manual_seed(1)
    return live_in(SmallCNN(), SIZE)


def vit() -> VisionTransformer:
    """Not narrower: in matrix products of 16 columns a row's last bit depends on its place."""
    torch.manual_seed(2)
    module = VisionTransformer(
        image_size=SIZE, patch_size=4, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=64,
        num_classes=CLASSES,
    )  # fmt: skip
    module.heads = nn.Sequential(Fuse(), module.heads)
    return live_in(module, SIZE)


@cache
def loaded(network: str) -> LoadedModel:
    return as_model(cnn() if network == "cnn" else vit(), CLASSES, SIZE)


@cache
def pictures() -> tuple[Decoded, ...]:
    return tuple(noise_pictures(loaded("cnn"), BATCH))


@cache
def engine_of(network: str, name: str, target: str = TARGETS) -> Engine:
    return Engine(loaded(network), methods=[name], target=target, batch_size=BATCH)


def explained(engine: Engine, views: tuple[Decoded, ...]) -> Maps:
    with engine.prepared():
        outcomes = engine.explain(views)
    assert all(isinstance(outcome, Explanation) for outcome in outcomes)
    return [[cam.cam for cam in outcome.cams] for outcome in outcomes]


@cache
def expected(network: str, name: str) -> Maps:
    return explained(engine_of(network, name), pictures())


def assert_same_bits(found: Maps, wanted: Maps) -> None:
    for ones, others in zip(found, wanted, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes()


def assert_close(found: Maps, wanted: Maps) -> None:
    """Up to the order in which float32 adds up."""
    for ones, others in zip(found, wanted, strict=True):
        for one, other in zip(ones, others, strict=True):
            atol = 1e-4 * float(np.abs(other).max())
            np.testing.assert_allclose(one, other, rtol=0, atol=atol)


@on_every_network
def test_maps_are_finite_and_tell_pictures_apart(network: str, name: str) -> None:
    maps = expected(network, name)
    assert all(np.isfinite(cam).all() for cams in maps for cam in cams)
    assert all(np.ptp(cam) > 0 for cams in maps for cam in cams[:1])
    # Without max pooling deconvnet depends on nothing but the weights.
    assert len({cams[0].tobytes() for cams in maps}) == (1 if name == "deconvnet" else BATCH)


@pytest.mark.parametrize(("network", "name"), [(n, m) for n in REFUSED for m in sorted(REFUSED[n])])
def test_what_a_network_cannot_serve_is_refused_before_any_picture(network: str, name: str) -> None:
    with pytest.raises(UsageError, match="small"):
        engine_of(network, name)


@on_every_network
def test_a_batch_equals_its_singles_to_the_bit(network: str, name: str) -> None:
    engine = engine_of(network, name)
    singles = [explained(engine, (picture,))[0] for picture in pictures()]
    assert_same_bits(singles, expected(network, name))


@on_every_network
def test_targets_of_one_run_equal_those_of_single_runs(network: str, name: str) -> None:
    together = expected(network, name)
    for k, target in enumerate(TARGETS.split(",")):
        alone = explained(engine_of(network, name, target), pictures())
        assert_same_bits(alone, [[cams[k]] for cams in together])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOISY])
def test_a_flipped_picture_has_the_flipped_map(name: str) -> None:
    """Where the network commutes with flips. Noise lies on the view and is not flipped with it."""
    module = vit() if name == "legrad" else cnn()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.add_(part.weight.flip(3))
        if name == "legrad":
            places = module.encoder.pos_embedding[0, 1:].view(4, 4, -1)
            places.add_(places.flip(1))
    engine = Engine(as_model(module, CLASSES, SIZE), methods=[name], batch_size=BATCH)
    mirrored = tuple(replace(p, view=p.view[:, ::-1].copy()) for p in pictures())
    maps = [[cam[:, ::-1] for cam in cams] for cams in explained(engine, mirrored)]
    assert_close(maps, explained(engine, pictures()))


ORDERED = {
    "groupcam": "groups are of neighbouring channels, by definition",
    "sscam": "every channel has noise of its own, seeded from the channel's number",
    "legrad": "a transformer's heads are permuted in place of channels, in a test of its own",
}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ORDERED])
def test_the_order_of_the_layers_channels_does_not_matter(name: str) -> None:
    module, order = cnn(), torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    conv, norm, _ = module.stages[2]
    with torch.no_grad():
        for values in [*conv.parameters(), *norm.parameters(), norm.running_mean, norm.running_var]:
            values.copy_(values[order])
        module.head.weight.copy_(module.head.weight[:, order])
    model = as_model(module, CLASSES, SIZE)
    engine = Engine(model, methods=[name], target=TARGETS, batch_size=BATCH)
    assert_close(explained(engine, pictures()), expected("cnn", name))


def test_the_order_of_a_transformers_heads_does_not_matter_to_legrad() -> None:
    module = vit()
    with torch.no_grad():
        for block in module.encoder.layers:
            attention = block.self_attention
            for values in (attention.in_proj_weight, attention.in_proj_bias):
                heads = values.unflatten(0, (3, 4, 16))  # query, key, value; head; channel
                heads.copy_(heads.flip(1).clone())
            columns = attention.out_proj.weight.unflatten(1, (4, 16))
            columns.copy_(columns.flip(1).clone())
    model = as_model(module, CLASSES, SIZE)
    engine = Engine(model, methods=["legrad"], target=TARGETS, batch_size=BATCH)
    assert_close(explained(engine, pictures()), expected("vit", "legrad"))


USUAL_ATTENTION = F.scaled_dot_product_attention
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything about a module, and about torch, that explaining could leave changed."""
    state: dict[str, Any] = {
        "attention": F.scaled_dot_product_attention is USUAL_ATTENTION,
        "modes": torch._C._len_torch_function_stack(),
        "kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }
    for name, part in module.named_modules():
        state[name] = (
            sorted(part.__dict__),
            part.training,
            [list(getattr(part, hooks).values()) for hooks in HOOKS],
            getattr(part, "inplace", None),
        )
    for name, value in module.named_parameters():
        state[f"{name}."] = value.requires_grad, value.grad, value._version
    for name, value in module.state_dict().items():
        state[f"{name}.."] = value.numpy().tobytes()
    return state


@contextmanager
def left_as_found(network: str) -> Iterator[Fuse]:
    """A network in training, some of it frozen, is the same afterwards; its fuse."""
    module = loaded(network).network.module
    (fuse,) = (part for part in module.modules() if isinstance(part, Fuse))
    first = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    try:
        module.train()
        first.eval()
        first.bias.requires_grad_(False)
        before = state_of(module)
        assert before["attention"]
        yield fuse
        assert state_of(module) == before
    finally:
        module.eval().requires_grad_()
        fuse.left = 0


@pytest.mark.parametrize("around", [nullcontext, torch.no_grad, torch.inference_mode])
@on_every_network
def test_a_network_is_left_as_it_was_whatever_the_callers_mode(
    network: str, name: str, around: Callable[[], AbstractContextManager[None]]
) -> None:
    with around(), left_as_found(network):
        engine = Engine(loaded(network), methods=[name], target=TARGETS, batch_size=BATCH)
        maps = explained(engine, pictures())
    assert_same_bits(maps, expected(network, name))


@on_every_network
def test_a_network_that_raises_on_the_way_is_left_as_it_was(network: str, name: str) -> None:
    engine = engine_of(network, name)
    with left_as_found(network) as fuse:
        fuse.calls = 0
        explained(engine, pictures())
        calls = fuse.calls
    for call in {1, min(2, calls), (calls + 1) // 2, calls}:
        with left_as_found(network) as fuse:
            fuse.left = call
            with pytest.raises(BlownError):
                explained(engine, pictures())
    assert_same_bits(explained(engine, pictures()), expected(network, name))
