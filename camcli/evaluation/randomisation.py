"""The sanity check: a map must change when what the network has learned is taken away.

Adebayo 2018, arXiv 1810.03292: parameters are randomised from the output on, layer after layer, and
maps of the same picture and class are compared with those of the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camcli.cam.targets import Choose
from camcli.engine import Engine
from camcli.errors import UsageError
from camcli.evaluation.similarity import complexity_rise, rank_correlation, structural_similarity
from camcli.models.inspection import synthetic_pictures
from camcli.models.loaded import LoadedModel
from camcli.records import Decoded, Explanation, Target

STEPS = 4
SIMILAR = 0.5
"""The mean rank correlation from which two sets of maps are said to show the same."""


@dataclass(frozen=True)
class Compared:
    """The means over pictures of what is alike between two sets of maps, -1 to 1."""

    rank_correlation: float
    structural_similarity: float


@dataclass(frozen=True)
class Sanity:
    """What one method on one layer does when the network forgets."""

    method: str
    layer: str
    pictures: int
    other_class: Compared
    """With the map of the least likely class, on the network as it was."""
    cascade: tuple[Compared, ...]
    """After each step, with the output layer alone first and every layer last."""
    complexity_rise: float | None
    """eMPRT: by what share the entropy of maps rises when every layer is randomised; higher is
    better. Recorded beside the verdict.
    """

    @property
    def passes(self) -> bool:
        """Whether maps of another class, of the network without what its output layer has learned,
        and of the network that has learned nothing are other maps: their mean rank correlation
        with the original is below 0.5. A negative one is that of another map too.
        """
        kept = self.other_class, self.cascade[0], self.cascade[-1]
        return all(one.rank_correlation < SIMILAR for one in kept)

    def figures(self) -> dict[str, float]:
        """Everything measured, by names for a table."""
        steps = {"other_class": self.other_class}
        steps |= {f"step_{n}": step for n, step in enumerate(self.cascade, start=1)}
        found = {
            f"sanity_{name}_{figure}": value
            for name, step in steps.items()
            for figure, value in vars(step).items()
        }
        rise = self.complexity_rise
        return found if rise is None else found | {"sanity_complexity_rise": rise}

    @property
    def summary(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "passes": self.passes, "sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        kept = self.other_class, self.cascade[0], self.cascade[-1]
        other, first, last = (f"{one.rank_correlation:+.2f}" for one in kept)
        return (
            f"{self.method} {'passes' if self.passes else 'fails'} the sanity check: maps of "
            f"another class correlate at {other}, with a randomised output layer at {first}, with "
            f"every layer randomised at {last}."
        )


def stages(model: LoadedModel, steps: int = STEPS) -> list[list[str]]:
    """The modules with parameters of their own in `steps` groups, from the output to the input:
    the output layer alone, then all others in groups of one size. UsageError where there are none.
    """
    with model.network.prepared():
        calls = model.network.calls(synthetic_pictures(model))
    owners = {name.rpartition(".")[0] for name, _ in _parameters(model)}
    called = [name for name in dict.fromkeys(call.name for call in calls) if name in owners]
    # Parameters of modules that hand on no tensor of their own go with what comes first.
    names = [*reversed(called), *sorted(owners.difference(called))]
    if not names:
        raise UsageError(
            f"the parameters of {model.name} cannot be reached, which the sanity check randomises; "
            "give the file before torch.jit.freeze"
        )
    rest = np.array_split(np.array(names[1:], object), max(1, steps - 1))
    return [names[:1], *(part.tolist() for part in rest if len(part))]


@contextmanager
def forgetting(model: LoadedModel, seed: int = 0) -> Iterator[Callable[[Sequence[str]], None]]:
    """A function that randomises modules by name; afterwards every parameter is as it was, to the
    bit.

    The entries of each parameter, and of the statistics that a normalisation keeps, are shuffled:
    what was learned is lost, and signals keep their scale, which fresh initialisation would take
    away from a network of stored statistics. It works for any kind of model file.
    """
    tensors = dict(_parameters(model)) | dict(_statistics(model))
    saved = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    generator = torch.Generator().manual_seed(seed)

    def forget(names: Sequence[str]) -> None:
        wanted = set(names)
        with torch.no_grad():
            for name, tensor in tensors.items():
                if name.rpartition(".")[0] in wanted:
                    order = torch.randperm(tensor.numel(), generator=generator)
                    tensor.copy_(tensor.flatten()[order.to(tensor.device)].view_as(tensor))

    try:
        yield forget
    finally:
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved[name])


def compared(before: Sequence[Explanation], after: Sequence[Explanation]) -> list[Compared]:
    """Each method's maps of the same pictures, in the order of the explanations' own."""
    found = []
    for number in range(len(before[0].cams)):
        pairs = [(one.cams[number].cam, other.cams[number].cam)
                 for one, other in zip(before, after, strict=True)]  # fmt: skip
        found.append(
            Compared(
                float(np.mean([rank_correlation(*pair) for pair in pairs])),
                float(np.mean([structural_similarity(*pair) for pair in pairs])),
            )
        )
    return found


def sanity(engine: Engine, pictures: Sequence[Decoded], seed: int = 0) -> list[Sanity]:
    """Every method on every layer, over a few pictures, explained for the class that the network
    as it was predicts. The engine and its model are afterwards as before.
    """
    groups = stages(engine.model)
    both = _explained(engine, pictures, lambda _, ranked: (Target(ranked[0]), Target(ranked[-1])))
    half = len(both[0].cams) // 2
    original = [replace(one, cams=one.cams[:half]) for one in both]
    other = [replace(one, cams=one.cams[half:]) for one in both]
    own = {one.ref: one.cams[0].target for one in original}
    steps, last = [], original
    with forgetting(engine.model, seed) as forget:
        for names in groups:
            forget(names)
            last = _explained(engine, pictures, lambda ref, _: (own[ref],))
            steps.append(compared(original, last))
    classes = compared(original, other)
    return [
        Sanity(
            cam.method,
            cam.layer,
            len(pictures),
            classes[number],
            tuple(step[number] for step in steps),
            _mean_rise(original, last, number),
        )
        for number, cam in enumerate(original[0].cams)
    ]


def _explained(engine: Engine, pictures: Sequence[Decoded], choose: Choose) -> list[Explanation]:
    before, engine.choose = engine.choose, choose
    try:
        with engine.prepared():
            found = engine.explain(pictures)
    finally:
        engine.choose = before
    return [one for one in found if isinstance(one, Explanation)]


def _mean_rise(
    before: Sequence[Explanation], after: Sequence[Explanation], number: int
) -> float | None:
    rises = [complexity_rise(one.cams[number].cam, other.cams[number].cam)
             for one, other in zip(before, after, strict=True)]  # fmt: skip
    there = [rise for rise in rises if rise is not None]
    return float(np.mean(there)) if there else None


def _parameters(model: LoadedModel) -> Iterator[tuple[str, Tensor]]:
    module = getattr(model.network, "module", None)
    if module is not None:
        yield from module.named_parameters()


def _statistics(model: LoadedModel) -> Iterator[tuple[str, Tensor]]:
    module = getattr(model.network, "module", None)
    if module is not None:
        for name, buffer in module.named_buffers():
            if name.rpartition(".")[2] in ("running_mean", "running_var"):
                yield name, buffer
