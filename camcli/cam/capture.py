"""What a method is given: one layer, one target per picture, and what else it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from camcli.records import Target

Rule = Literal["plain", "guided", "deconvnet"]
Make = Callable[[int, "Tensor"], "Tensor"]
"""(picture, variants (M,)) -> the edited maps or views of that picture, (M, C, h, w)."""
Utility = Callable[["Tensor"], "Tensor"]
"""Logits (N, classes) -> answers (N, classes), from which targets are scored."""


class FurtherPasses(Protocol):
    """What costs more than the shared backward pass. Everything is about the same targets."""

    @property
    def count(self) -> int:
        """The pictures; the rest of the batch is padding, for which nothing further is computed."""

    @property
    def view(self) -> Tensor:
        """The normalised batch, (N, 3, H, W)."""

    @property
    def size(self) -> tuple[int, int]:
        """H and W of the view."""

    @property
    def targets(self) -> Sequence[Target]:
        """What is explained of each picture; of the padding, Target(None)."""

    @property
    def logits(self) -> Tensor:
        """(N, classes)"""

    @property
    def score(self) -> Tensor:
        """The targets' scores, (N,)."""

    def generator(self, picture: int, variant: int = 0) -> torch.Generator:
        """Random numbers that depend on the picture alone: seeded from its SHA-256."""

    def gradient_of(self, utility: Utility) -> Tensor:
        """The gradient (N, C, h, w) of the score that is read from other answers."""

    def curvature(self, utility: Utility, direction: Tensor) -> Tensor:
        """The Hessian of that score times a direction, (N, C, h, w) -> (N, C, h, w)."""

    def class_weights(self) -> Tensor:
        """The linear layer's row for each target, (N, C). UsageError where there is none."""

    def scores_of_maps(
        self, variants: int, make: Make, probability: bool = False, shared: str = ""
    ) -> Tensor:
        """Each picture's score with the layer's output replaced, (N, variants).

        Variants that do not depend on the target have a name in `shared`: they are run once.
        """

    def scores_of_views(
        self, variants: int, make: Make, probability: bool = False, shared: str = ""
    ) -> Tensor:
        """Each picture's score with the network's input replaced, (N, variants); see above."""

    def at(self, view: Tensor) -> LayerCapture:
        """The same layer and targets for another input, (N, 3, H, W)."""

    def input_gradient(self, rule: Rule) -> Tensor:
        """The score's gradient at the network's input, (N, 3, H, W), under a rule for ReLUs."""

    def bias_gradients(self) -> Iterator[Tensor]:
        """Bias times gradient, (N, C, h, w), for every layer of the network that adds a bias."""

    def attention_gradients(self) -> Iterator[Tensor]:
        """For every block, the gradient of the score of its own output with respect to its
        attention, (N, heads, queries, keys). UsageError where there is no such attention.
        """

    def tokens_to_grid(self, values: Tensor) -> Tensor:
        """One value a token, (N, T), -> (N, h, w); class and register tokens are left out."""


@dataclass(frozen=True)
class LayerCapture:
    """Activation A and gradient G of one layer, (N, C, h, w), float32, for one score a picture."""

    activation: Tensor
    gradient: Tensor
    outside: Tensor
    """The share of the first-order sum on class and register tokens, (N,)."""
    further: FurtherPasses

    @cached_property
    def product(self) -> Tensor:
        """G * A, element by element, which several methods and every map's worth are made of."""
        return self.gradient * self.activation
