"""One recorded forward pass of a batch, and the further passes that some methods ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camcli.cam import targets
from camcli.cam.capture import LayerCapture, Make, Rule, Utility
from camcli.cam.guided import Rectified
from camcli.cam.layers import Layer
from camcli.errors import ModelError, UsageError
from camcli.models.attention import attention_gradients, token_grid
from camcli.models.eager import EagerNetwork
from camcli.models.inspection import bias_layers, input_layer
from camcli.models.loaded import LoadedModel
from camcli.records import Target

# Heads are cheap: a larger batch than the network's own fills the device.
_HEAD_BATCH = 64


class Pass:
    """A batch (N, 3, H, W) through the model, its graph recorded from `layers` on.

    `seeds` has one number a picture; what the batch holds beyond them is padding.
    """

    def __init__(
        self, model: LoadedModel, view: Tensor, layers: Sequence[Layer], seeds: Sequence[int]
    ) -> None:
        self.model, self.view, self.layers, self.seeds = model, view, tuple(layers), tuple(seeds)
        self.logits, self.outputs = model.capture(view, layers)
        self.classes: list[set[int]] = [set() for _ in seeds]
        """The classes of all the targets that will be asked for, picture by picture."""
        self.kept: dict[tuple[str, Layer, int], dict[int, Tensor]] = {}
        self._deep: dict[Rule, tuple[Tensor, Tensor]] = {}
        self._biased: tuple[Pass, list[Tensor]] | None = None

    def expect(self, rows: Sequence[Sequence[Target]]) -> None:
        """What is tried out for one target is kept for the others."""
        for row in rows:
            for own, target in zip(self.classes, row, strict=False):
                own.update(_named(target))

    def biased(self) -> tuple[Pass, list[Tensor]]:
        """A pass that is cut at every layer that adds a bias, and those biases; kept."""
        if self._biased is None:
            found = bias_layers(self.model)
            every = Pass(self.model, self.view, [layer for layer, _ in found], self.seeds)
            self._biased = every, [bias for _, bias in found]
        return self._biased

    def captures(self, row: Sequence[Target]) -> dict[Layer, LayerCapture]:
        """Every layer's activation and gradient for one target a picture."""
        score = targets.score(self.logits, row)
        # Zeros for a layer that the score does not depend on, such as an unused branch.
        gradients = torch.autograd.grad(
            score.sum(), self.outputs, retain_graph=True, materialize_grads=True
        )
        found = {}
        for layer, output, gradient in zip(self.layers, self.outputs, gradients, strict=True):
            grid, a, g = layer.grid, output.detach().float(), gradient.float()
            found[layer] = LayerCapture(
                grid.maps(a),
                grid.maps(g),
                (grid.outside(a) * grid.outside(g)).sum(dim=(1, 2)),
                Further(self, layer, output, tuple(row)),
            )
        return found

    def deep(self, rule: Rule) -> tuple[Tensor, Tensor]:
        """Logits, and the input to differentiate them by, under a rule for ReLUs; kept."""
        if rule not in self._deep:
            source = input_layer(self.model)
            with Rectified(rule) as rectified:
                logits, (view,) = self.model.capture(self.view, [source])
            if rule != "plain" and not rectified.count:
                modules = isinstance(self.model.network, EagerNetwork)
                shown = "has no ReLU" if modules else "shows no ReLU from inside its graph"
                raise UsageError(
                    f"{self.model.name} {shown}, which guided backpropagation and deconvnet "
                    "are rules for; use gradient_x_input"
                )
            if not torch.allclose(logits, self.logits, rtol=1e-3, atol=1e-4, equal_nan=True):
                raise ModelError(
                    f"the ReLUs of {self.model.name} cannot be replaced without changing its "
                    "answers; use gradient_x_input"
                )
            self._deep[rule] = logits, view
        return self._deep[rule]


@dataclass(frozen=True)
class Further:
    """`cam.capture.FurtherPasses` for one layer of a pass and one target a picture."""

    source: Pass
    layer: Layer
    output: Tensor
    """The layer's output as the network hands it on, in the graph of the pass."""
    targets: tuple[Target, ...]

    @property
    def count(self) -> int:
        return len(self.source.seeds)

    @property
    def view(self) -> Tensor:
        return self.source.view

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.view.shape[2:]
        return height, width

    @property
    def logits(self) -> Tensor:
        return self.source.logits.detach()

    @property
    def score(self) -> Tensor:
        return targets.score(self.logits, self.targets)

    def generator(self, picture: int, variant: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed((self.source.seeds[picture] + variant) % 2**63)

    def gradient_of(self, utility: Utility) -> Tensor:
        score = targets.score(utility(self.source.logits), self.targets).sum()
        (gradient,) = torch.autograd.grad(score, [self.output], retain_graph=True)
        return self.layer.grid.maps(gradient.float())

    def curvature(self, utility: Utility, direction: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            logits, (output,) = self.source.model.capture(self.view, [self.layer])
        score = targets.score(utility(logits), self.targets).sum()
        (gradient,) = torch.autograd.grad(score, [output], create_graph=True)
        if not gradient.requires_grad:  # a linear head has no curvature
            return torch.zeros_like(direction)
        along = self.layer.grid.output(direction, torch.zeros_like(output))
        (found,) = torch.autograd.grad((gradient * along).sum(), [output], allow_unused=True)
        return torch.zeros_like(direction) if found is None else self.layer.grid.maps(found.float())

    def class_weights(self) -> Tensor:
        weight, grid = self.source.model.network.classifier(), self.layer.grid
        if weight is not None and weight.shape[1] == grid.channels:
            by_channel = self.source.model.answers(weight.T)
            chosen = torch.stack(
                [targets.score(by_channel, [t] * grid.channels) for t in self.targets]
            )
            score = targets.score(self.source.logits, self.targets).sum()
            (found,) = torch.autograd.grad(score, [self.output], retain_graph=True)
            expected = chosen[:, :, None, None] / (grid.height * grid.width)
            gap = (grid.maps(found.float()) - expected).abs().amax()
            if bool(gap <= 1e-4 * expected.abs().amax()):
                return chosen
        raise UsageError(
            f"cam needs global average pooling and one linear layer after '{self.layer.name}', "
            f"which {self.source.model.name} has not; use gradcam or hirescam"
        )

    def scores_of_maps(
        self, variants: int, make: Make, probability: bool = False, shared: str = ""
    ) -> Tensor:
        model, grid = self.source.model, self.layer.grid

        def answers(n: int) -> Iterator[Tensor]:
            own = self.output[n : n + 1].detach()
            with model.network.tail(self.view[n : n + 1], self.layer) as tail, torch.no_grad():
                for chosen in _chunks(variants, _HEAD_BATCH, own.device):
                    edited = grid.output(make(n, chosen), own.expand(len(chosen), *own.shape[1:]))
                    yield model.answers(tail(edited))

        return self._scores(answers, variants, probability, shared)

    def scores_of_views(
        self, variants: int, make: Make, probability: bool = False, shared: str = ""
    ) -> Tensor:
        def answers(n: int) -> Iterator[Tensor]:
            with torch.no_grad():
                for chosen in _chunks(variants, len(self.targets), self.view.device):
                    yield self.source.model.logits(make(n, chosen))

        return self._scores(answers, variants, probability, shared)

    def _scores(
        self,
        answers: Callable[[int], Iterator[Tensor]],
        variants: int,
        probability: bool,
        shared: str,
    ) -> Tensor:
        """(N, variants) from the logits of every picture's variants, in chunks."""
        found = self.logits.new_zeros(len(self.targets), variants)
        for n in range(self.count):
            target = self.targets[n]
            wanted = self.source.classes[n] | _named(target)
            key = (shared, self.layer, n)
            by_class = self.source.kept.get(key, {}) if shared else {}
            if not wanted <= by_class.keys():
                columns = sorted(wanted)
                parts = [self._read(logits, probability)[:, columns] for logits in answers(n)]
                by_class = dict(zip(columns, torch.cat(parts)[:variants].T, strict=True))
                self.source.kept[key] = by_class
            for index, sign in ((target.index, 1), (target.against, -1)):
                if index is not None:
                    found[n] += sign * by_class[index]
        return found

    def _read(self, logits: Tensor, probability: bool) -> Tensor:
        return self.source.model.probabilities(logits) if probability else logits

    def at(self, view: Tensor) -> LayerCapture:
        other = Pass(self.source.model, view, [self.layer], self.source.seeds)
        return other.captures(self.targets)[self.layer]

    def input_gradient(self, rule: Rule) -> Tensor:
        logits, view = self.source.deep(rule)
        score = targets.score(logits, self.targets).sum()
        (gradient,) = torch.autograd.grad(score, [view], retain_graph=True)
        return gradient.float()

    def bias_gradients(self) -> Iterator[Tensor]:
        every, biases = self.source.biased()
        captures = every.captures(self.targets)
        for layer, bias in zip(every.layers, biases, strict=True):
            yield captures[layer].gradient * bias[:, None, None]

    def attention_gradients(self) -> Iterator[Tensor]:
        yield from attention_gradients(self.source.model, self.view, self.targets)

    def tokens_to_grid(self, values: Tensor) -> Tensor:
        return token_grid(self.source.model, values.shape[1]).maps(values[:, :, None])[:, 0]


def _named(target: Target) -> set[int]:
    return {index for index in (target.index, target.against) if index is not None}


def _chunks(count: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """The numbers below `count` in chunks of one size: the last one is filled with its last."""
    every = torch.arange(count, device=device)
    for start in range(0, count, size):
        chunk = every[start : start + size]
        yield torch.cat([chunk, chunk[-1:].expand(size - len(chunk))])
