"""What every model source returns, and the one operation that all capture rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camcli.cam.layers import Layer, ModuleCall
from camcli.cam.targets import Classes
from camcli.errors import ModelError
from camcli.images.preprocess import Preprocessing
from camcli.models.precision import lowered
from camcli.models.transfer import normalised
from camcli.records import Precision

Edit = Callable[[Tensor], Tensor]
Edits = Mapping[Layer, Edit]


@contextmanager
def recording() -> Iterator[None]:
    """Gradients are recorded, also inside a caller's `no_grad` or `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class Network(Protocol):
    """A network that can be run with some of its layers' outputs edited on the way.

    Capturing, zeroing and scaling an activation are all edits, so this is all that a new kind of
    model has to provide.
    """

    def prepared(self) -> AbstractContextManager[None]:
        """Evaluation mode and frozen parameters inside; everything as it was afterwards."""

    def calls(self, x: Tensor) -> list[ModuleCall]:
        """Every module call of one forward pass, in the order in which they returned."""

    def run(self, x: Tensor, edits: Edits) -> Tensor:
        """(N, 3, H, W) -> logits (N, classes), each edited layer's output replaced."""

    def tail(self, x: Tensor, layer: Layer) -> AbstractContextManager[Edit]:
        """What follows a layer, for one picture (1, 3, H, W): any outputs of that layer,
        (M, ...) -> logits (M, classes), at the cost of what follows it.
        """

    def classifier(self) -> Tensor | None:
        """The weights (classes, C) of the last linear layer, where there is one."""

    def biases(self) -> Mapping[str, Tensor]:
        """What each module adds to its output, (C,) by the module's name."""

    def attention(self) -> AbstractContextManager[Sequence[tuple[str, Tensor]]]:
        """Records attention weights (N, heads, queries, keys) while it is open, each with the
        name of the outermost module that holds no other: the transformer block.
        """


@dataclass(frozen=True)
class LoadedModel:
    """A network, and what is needed to feed it and to read its answers."""

    name: str
    network: Network
    weights: str
    """Where the weights come from: a weights entry, a file, or `none (seed 0)`."""
    weights_sha256: str | None
    preprocessing: Preprocessing
    classes: Classes
    labels: str
    """Where the labels come from."""
    activation: Literal["softmax", "sigmoid"]
    device: torch.device
    precision: Precision = "fp32"
    """That of the operators in front of an edited layer."""
    remarks: tuple[str, ...] = ()
    """What was assumed in opening it, in sentences that a run repeats."""

    def inputs(self, views: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Views (H, W, 3) uint8 -> the normalised batch (N, 3, H, W), channels last."""
        return normalised(views, self.preprocessing, self.device)

    def logits(self, x: Tensor, edits: Edits | None = None) -> Tensor:
        """(N, 3, H, W) -> (N, classes), float32; a single logit z becomes the pair (-z, z)."""
        edits = dict(edits or {})
        precision = self.precision
        for layer in [layer for layer in edits if not layer.module]:  # the input itself
            x = edits.pop(layer)(x)
            precision = "fp32"
        with lowered(precision, self.device, edits) as own:
            return self.answers(self.network.run(x, own))

    def answers(self, logits: Tensor) -> Tensor:
        """A network's logits in float32, one a class."""
        logits = logits.float()
        if logits.shape[1] > 1:
            return logits
        if self.activation == "softmax":  # one picture gave more
            raise ModelError(
                f"{self.name} returned one logit a picture for a batch of {len(logits)}, but has "
                f"{self.classes.count} classes; it must treat every picture of a batch alike"
            )
        return torch.cat([-logits, logits], dim=1)

    @recording()
    def capture(self, x: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and each layer's output as the tensor to differentiate them by.

        The graph is recorded from the first of the layers on: nothing before it needs a gradient.
        Every layer hands on a clone, for an operation that follows may work in place.
        """
        taken: dict[Layer, Tensor] = {}

        def cut(layer: Layer) -> Edit:
            def edit(output: Tensor) -> Tensor:
                kept = output if output.requires_grad else output.detach().requires_grad_()
                taken[layer] = kept
                return kept.clone()

            return edit

        logits = self.logits(x, {layer: cut(layer) for layer in layers})
        missing = [layer.name for layer in layers if layer not in taken]
        if missing:
            raise ModelError(f"the layer '{missing[0]}' of {self.name} did not run on this input")
        return logits, [taken[layer] for layer in layers]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, classes) -> (N, classes). The pair of a single logit is sigmoid(-z), sigmoid(z)."""
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1)
