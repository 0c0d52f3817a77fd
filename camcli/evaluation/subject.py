"""One picture with all of its maps, as metrics see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camcli.cam import targets as scores
from camcli.evaluation.answers import Answers, Make
from camcli.evaluation.baselines import EDGES, RANDOM, edges, noise
from camcli.models.transfer import to_host, wait
from camcli.records import Cam, Decoded, Explanation, Target

T = TypeVar("T")


class Subject:
    """A picture's maps and the baselines, and a model to ask about changed views.

    `cams` holds the explanation's maps, then two baselines for each of its targets.
    """

    def __init__(self, explanation: Explanation, answers: Answers, seed: int) -> None:
        self.image: Decoded = explanation.image
        self.answers = answers
        self.seed = (seed << 60) + int(self.image.facts.sha256[:15] or "0", 16) & (1 << 63) - 1
        """Decides all that is random: the run's seed and the picture's own."""
        self.view: Tensor = answers.model.inputs([self.image.view])[0]
        self.cams: tuple[Cam, ...] = (*explanation.cams, *self._baselines(explanation.cams))
        self._kept: dict[str, object] = {}

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
    def chance(self) -> Tensor:
        """The probability of each map's target on the view itself, (M,)."""
        logits = self.answers.logits(1, lambda _: self.view[None])
        return self._read(logits.expand(len(self.cams), -1))

    def chances(self, variants: int, make: Make) -> Tensor:
        """The probability of each map's target on its own variants, (M, variants).

        `make` takes numbers m * variants + k, the k-th variant of map m.
        """
        logits = self.answers.logits(len(self.cams) * variants, make)
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

    def kept(self, name: str, work: Callable[[], T]) -> T:
        """What metrics have in common is worked out once."""
        if name not in self._kept:
            self._kept[name] = work()
        return self._kept[name]  # type: ignore[return-value]

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers of the host, the same for the same picture, seed and purpose."""
        mark = sum(ord(c) << 8 * (i % 6) for i, c in enumerate(purpose))
        return torch.Generator().manual_seed(self.seed ^ mark)

    def _read(self, logits: Tensor) -> Tensor:
        return self._host(self.answers.chances(logits, self.targets))

    def _host(self, values: Tensor) -> Tensor:
        host = to_host(values)
        wait(values.device)
        return host.double()

    def _baselines(self, cams: Sequence[Cam]) -> list[Cam]:
        grid = cams[0].cam.shape
        maps = {RANDOM: noise((grid[0], grid[1]), self.seed).numpy(),
                EDGES: edges(self.view[None])[0].cpu().numpy()}  # fmt: skip
        labels = {cam.target: cam for cam in cams}
        return [
            Cam(name, "", target, one.label, one.score, values, None, None, None, None, None, False)
            for name, values in maps.items()
            for target, one in labels.items()
        ]
