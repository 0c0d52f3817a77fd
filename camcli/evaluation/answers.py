"""What a model says of changed views, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from camcli.cam import targets as scores
from camcli.errors import ModelError
from camcli.memory import unless_it_runs_out
from camcli.models.loaded import LoadedModel
from camcli.records import Target

Make = Callable[[Tensor], Tensor]
"""Numbers of variants (B,) -> those variants as normalised views (B, 3, H, W)."""


class Answers:
    """A model that is asked about many views, `batch_size` at a time; half as many from where
    memory runs out.
    """

    def __init__(self, model: LoadedModel, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.asked = 0
        """How many views went through the model."""

    @torch.no_grad()
    def logits(self, count: int, make: Make) -> Tensor:
        """(count, classes) of the variants below `count`."""
        found: list[Tensor] = []
        done = 0
        while done < count:
            # All chunks have one size, so that an answer does not depend on its place.
            size = -(-count // -(-count // self.batch_size))
            chosen = torch.arange(done, done + size, device=self.model.device).clamp(max=count - 1)
            part = unless_it_runs_out(partial(self._part, make, chosen))
            if part is None:
                self._halve()
                continue
            found.append(part)
            done += size
        return torch.cat(found)[:count]

    def _part(self, make: Make, chosen: Tensor) -> Tensor:
        views = make(chosen).contiguous(memory_format=torch.channels_last)
        self.asked += len(views)
        return self.model.logits(views)

    def _halve(self) -> None:
        if self.batch_size == 1:
            raise ModelError(
                f"{self.model.name} needs more memory for one picture than {self.model.device} "
                "has free; free some, or give a smaller --size"
            )
        self.batch_size //= 2

    def chances(self, logits: Tensor, targets: Sequence[Target]) -> Tensor:
        """The probability of each row's target, (N, classes) -> (N,), from 0 to 1.

        Of a class, the model's own (softmax, or sigmoid where it is multi-label); of a
        counterfactual -A, 1 - p(A); of a contrast A-B, that of A if it is one of both,
        sigmoid(logit A - logit B).
        """
        # Of a class p, of a counterfactual 0 - p.
        signed = scores.score(self.model.probabilities(logits), targets)
        contrasts = scores.score(logits, targets).sigmoid()
        against = torch.tensor([t.index is None for t in targets], device=logits.device)
        both = torch.tensor([None not in (t.index, t.against) for t in targets],
                            device=logits.device)  # fmt: skip
        return contrasts.where(both, signed + against)
