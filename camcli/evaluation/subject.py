"""One picture with all of its maps, as metrics see it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camcli.cam import targets as scores
from camcli.engine import Engine
from camcli.evaluation.answers import Answers, Make
from camcli.evaluation.baselines import EDGES, RANDOM, edges
from camcli.evaluation.localisation import seen_mask
from camcli.models.transfer import to_host, wait
from camcli.records import Cam, Decoded, Explanation, Target

_ROUNDING = 1e-5

Mask = npt.NDArray[np.bool_]
Marks = Callable[[Decoded, int | None], Mask | None]
"""(picture, class) -> where that class is on the upright source, (height, width), if it is told."""


class Subject:
    """A picture's maps and the baselines, and a model to ask about changed views.

    `cams` holds the explanation's maps, then two baselines for each of its targets. Maps that are
    equal, as several methods' are on many networks, are asked about once.
    """

    def __init__(
        self,
        explanation: Explanation,
        answers: Answers,
        engine: Engine | None,
        seed: int,
        marks: Marks | None = None,
    ) -> None:
        """`engine` is needed by what explains again; it has the methods of the explanation."""
        self.image: Decoded = explanation.image
        self.answers, self.engine, self.seed = answers, engine, seed
        self._marks = marks
        self.view: Tensor = answers.model.inputs([self.image.view])[0]
        """Normalised, (3, H, W), on the model's device."""
        self.cams: tuple[Cam, ...] = (
            *shared(explanation.cams),
            *self._baselines(explanation.cams),
        )
        self._kept: dict[str, Tensor] = {}

    @property
    def targets(self) -> list[Target]:
        """The target of each map."""
        return [cam.target for cam in self.cams]

    @cached_property
    def heat(self) -> npt.NDArray[np.float32]:
        """Every map on the view, raw and signed, (M, H, W), bilinear; what is not finite is 0."""
        geometry = self.image.geometry
        return np.stack([geometry.on_view(np.nan_to_num(cam.cam, posinf=0.0, neginf=0.0))
                         for cam in self.cams])  # fmt: skip

    @cached_property
    def on_device(self) -> Tensor:
        """`heat` where the model is."""
        return torch.from_numpy(self.heat).to(self.view.device)

    @cached_property
    def ranks(self) -> Tensor:
        """The place of each pixel among its map's, (M, H, W), from 0, the most relevant, on; by
        the signed map on the view, ties in a seeded random order that is the same for all maps.
        """
        count = self.heat[0].size
        shuffled = torch.randperm(count, generator=self.generator("ties"))
        flat = torch.from_numpy(self.heat).flatten(1)[:, shuffled]
        order = shuffled[flat.argsort(dim=1, descending=True, stable=True)]
        ranks = torch.empty_like(order)
        ranks.scatter_(1, order, torch.arange(count).expand(len(order), -1))
        return ranks.reshape(self.heat.shape).to(self.view.device)

    @cached_property
    def clean(self) -> Tensor:
        """The logits of the view itself, (1, classes)."""
        return self.answers.logits(1, lambda _: self.view[None])

    @cached_property
    def chance(self) -> Tensor:
        """The probability of each map's target on the view itself, (M,)."""
        return self._host(self.answers.chances(self._clean_rows, self.targets))

    @cached_property
    def score(self) -> Tensor:
        """Each map's target's logit on the view itself, (M,)."""
        return self._host(scores.score(self._clean_rows, self.targets))

    def object(self, target: Target) -> Mask | None:
        """What the network saw of the objects of a target's class, (height, width) of the source;
        None where there are none, or nobody has marked them.
        """
        mask = self._marks(self.image, target.index) if self._marks else None
        return None if mask is None else seen_mask(mask, self.image.geometry)

    def chances(self, variants: int, make: Make) -> Tensor:
        """The probability of each map's target on its own variants, (M, variants).

        `make` takes numbers m * variants + k, the k-th variant of map m.
        """
        first, place = self._distinct
        numbers = torch.tensor(first, device=self.view.device)

        def distinct(chosen: Tensor) -> Tensor:
            return make(numbers[chosen // variants] * variants + chosen % variants)

        found = self.answers.logits(len(first) * variants, distinct)
        logits = found.reshape(len(first), variants, -1)[place].flatten(0, 1)
        own = [target for target in self.targets for _ in range(variants)]
        return self._host(self.answers.chances(logits, own)).reshape(-1, variants)

    def shared_chances(self, variants: int, make: Make) -> Tensor:
        """The probability of each map's target on variants of the view that all maps share."""
        logits = self.answers.logits(variants, make)
        return torch.stack([
            self._host(self.answers.chances(logits, [target] * variants)) for target in self.targets
        ])  # fmt: skip

    def shared_scores(self, variants: int, make: Make) -> Tensor:
        """The same of the target's logits, (M, variants)."""
        logits = self.answers.logits(variants, make)
        return torch.stack([
            self._host(scores.score(logits, [target] * variants)) for target in self.targets
        ])  # fmt: skip

    def explained_again(self, views: Tensor) -> list[Tensor]:
        """Of each map its method's maps of changed views, (N, 3, H, W) -> (N, h, w) each."""
        if self.engine is None:
            raise ValueError("a metric that explains again was not registered so")
        targets = list(dict.fromkeys(self.targets))
        size, seed = self.engine.batch_size, int(self.image.facts.sha256[:15] or "0", 16)
        parts = [
            self.engine.maps(part, [seed] * len(part), [[t] * len(part) for t in targets])
            for part in torch.split(views, size)
        ]
        found = []
        for cam in self.cams:
            if cam.method == RANDOM:
                found.append(torch.from_numpy(cam.cam).expand(len(views), -1, -1))
            elif cam.method == EDGES:
                found.append(edges(views))
            else:
                row, which = targets.index(cam.target), (cam.method, cam.layer)
                found.append(torch.cat([part[row][which] for part in parts]))
        return found

    def kept(self, name: str, work: Callable[[], Tensor]) -> Tensor:
        """What metrics have in common is worked out once."""
        if name not in self._kept:
            self._kept[name] = work()
        return self._kept[name]

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of the host, the same for the same picture, seed and purpose."""
        text = f"{self.seed} {self.image.facts.sha256} {purpose}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
        return torch.Generator().manual_seed(number >> 1)

    @cached_property
    def _distinct(self) -> tuple[list[int], list[int]]:
        """The first map of each kind, and of each map which of these it is."""
        kinds: dict[tuple[tuple[int, ...], bytes], int] = {}
        place = [
            kinds.setdefault((cam.cam.shape, cam.cam.tobytes()), len(kinds)) for cam in self.cams
        ]
        return [place.index(kind) for kind in range(len(kinds))], place

    @property
    def _clean_rows(self) -> Tensor:
        return self.clean.expand(len(self.cams), -1)

    def _host(self, values: Tensor) -> Tensor:
        host = to_host(values)
        wait(values.device)
        return host.double()

    def _baselines(self, cams: Sequence[Cam]) -> list[Cam]:
        height, width = cams[0].cam.shape
        maps = {RANDOM: torch.rand(height, width, generator=self.generator("random")).numpy(),
                EDGES: edges(self.view[None])[0].cpu().numpy()}  # fmt: skip
        labels = {cam.target: cam for cam in cams}
        return [
            Cam(name, "", target, one.label, one.score, values, None, None, None, None, None, False)
            for name, values in maps.items()
            for target, one in labels.items()
        ]


def shared(cams: Sequence[Cam]) -> list[Cam]:
    """The maps, each that is a former one of its target's but for rounding, at most 1e-5 of the
    largest value off, replaced by that: else rounding alone would put one method before another.
    """
    found: list[Cam] = []
    for cam in cams:
        same = next((one.cam for one in found if _equal(one, cam)), cam.cam)
        found.append(replace(cam, cam=same))
    return found


def _equal(one: Cam, other: Cam) -> bool:
    if one.target != other.target or one.cam.shape != other.cam.shape:
        return False
    with np.errstate(invalid="ignore"):  # inf - inf equals nothing
        off = np.abs(one.cam - other.cam).max()
        return bool(off <= _ROUNDING * np.abs(one.cam).max())
