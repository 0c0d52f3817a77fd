"""What follows a layer gives the whole network's answers, at the cost of what follows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import densenet121, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from camcli.cam.layers import find_layer
from camcli.models.eager import EagerNetwork
from camcli.models.inspection import layers_of
from tests.conftest import as_model, live_in

SIZE, CLASSES, ROWS = 64, 5, 3
COSTLY = ("conv2d", "linear", "multi_head_attention_forward")


class Counted(TorchFunctionMode):
    """How often each costly function is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in COSTLY:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


class Twice(nn.Module):
    """One block called twice, the first output passing the second call by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        once = self.block(self.stem(x))
        return self.answer(once + self.block(once))

    def answer(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


class WrittenInto(Twice):
    """Writes into what the stem returned: several rows that share memory refuse that."""

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).mul_(2)
        return self.answer(self.block(stem) + stem)


class ByEffect(Twice):
    """Calls a module for what it does to its argument, which it does not where its output is
    given again.
    """

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x) + 1
        self.act(stem)
        return self.answer(self.block(stem) + stem)


transformer = partial(
    VisionTransformer, image_size=SIZE, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16,
    mlp_dim=32, num_classes=CLASSES,
)  # fmt: skip
resnet = partial(resnet18, num_classes=CLASSES)
densenet = partial(densenet121, num_classes=CLASSES)


def edited(build: Callable[[], nn.Module], name: str) -> tuple[Tensor, Tensor, Counter[str]]:
    """Logits of the tail and of the whole network for an edited layer; what the tail called."""
    torch.manual_seed(4)
    module = live_in(build(), SIZE)
    layer = find_layer(layers_of(as_model(module, CLASSES, SIZE)), name, "small")
    network, generator = EagerNetwork(module), torch.Generator().manual_seed(7)
    x = torch.randn(1, 3, SIZE, SIZE, generator=generator)
    kept: list[Tensor] = []

    def change(output: Tensor) -> Tensor:
        noise = torch.randn(ROWS, *output.shape[1:], generator=generator)
        kept.append(output[:1] + noise * output.std())
        return kept[0].clone()  # an in-place operation may follow

    with torch.no_grad():
        expected = network.run(x.expand(ROWS, -1, -1, -1), {layer: change})
        with network.tail(x, layer) as tail, Counted() as counted:
            found = tail(kept[0])
    assert all("forward" not in part.__dict__ for part in module.modules())
    return found, expected, counted.calls


@pytest.mark.parametrize(
    ("build", "name", "after"),
    [
        # layer3 and layer4: 4 convolutions each and one on the way around
        (resnet, "layer2", {"conv2d": 10, "linear": 1}),
        # inside of a block, whose input passes by, first through a convolution and then as it is
        (resnet, "layer3.0.bn1", {"conv2d": 9, "linear": 1}),
        (resnet, "layer3.1.bn1", {"conv2d": 6, "linear": 1}),
        (densenet, "features", {"linear": 1}),
        # a transition and 16 layers of two
        (densenet, "features.denseblock3", {"conv2d": 33, "linear": 1}),
        (transformer, "encoder.layers.encoder_layer_1",
         {"multi_head_attention_forward": 1, "linear": 3}),
        (transformer, "encoder.layers.encoder_layer_2.ln_1",
         {"multi_head_attention_forward": 1, "linear": 3}),
        (Twice, "block:0", {"conv2d": 1, "linear": 1}),
        (Twice, "block", {"linear": 1}),
    ],
)  # fmt: skip
def test_the_tail_answers_as_the_whole_network_and_runs_what_follows_alone(
    build: Callable[[], nn.Module], name: str, after: dict[str, int]
) -> None:
    found, expected, calls = edited(build, name)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len({tuple(row) for row in found.tolist()}) == ROWS
    assert calls == after


@pytest.mark.parametrize("build", [WrittenInto, ByEffect])
def test_where_the_tail_cannot_be_cut_out_the_whole_network_runs(
    build: Callable[[], nn.Module],
) -> None:
    found, expected, calls = edited(build, "block")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert calls == {"conv2d": 2, "linear": 1}
