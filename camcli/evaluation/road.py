"""ROAD: pixels are removed so that the holes are hard to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import metric

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.evaluation.subject import Subject

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE = 0.01
_PICTURES = 30


@metric(
    title="ROAD, most relevant first",
    paper="arXiv 2202.00449",
    better="lower",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def road_morf(subject: Subject) -> list[float | None]:
    """The mean of p(target) with the most relevant 10, 30, 50, 70 and 90 % of the pixels replaced
    by noisy linear imputation (Rong 2022, arXiv 2202.00449): each the weighted mean of its eight
    neighbours, plus normal noise of deviation 0.01 of the normalised view.

    Pixels are ranked by the signed map on the view, ties at random. The paper averages accuracy;
    here it is the probability, which needs fewer pictures.

    Cost: 5 forward passes and 5 sparse linear systems of the view's size a map.
    Known to get wrong: large holes become smooth patches, which are again something to see.
    """
    return _road(subject, most_relevant_first=True)


@metric(
    title="ROAD, least relevant first",
    paper="arXiv 2202.00449",
    better="higher",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def road_lerf(subject: Subject) -> list[float | None]:
    """As road_morf, with the least relevant pixels replaced: p(target) is to stay.

    Cost: 5 forward passes and 5 sparse linear systems of the view's size a map.
    Known to get wrong: as road_morf; a map that keeps one large spot in the middle does well on
    photographs of one object.
    """
    return _road(subject, most_relevant_first=False)


def _road(subject: Subject, most_relevant_first: bool) -> list[float | None]:
    import torch

    from camcli.evaluation.imputation import imputed

    count, view = subject.ranks[0].numel(), subject.view
    shares = torch.tensor(SHARES, dtype=torch.float64, device=view.device)
    noise = torch.randn(view.shape, generator=subject.generator("road")).to(view.device) * NOISE

    def without(chosen: Tensor) -> Tensor:
        ranks = subject.ranks[chosen // len(SHARES)]
        if not most_relevant_first:
            ranks = count - 1 - ranks
        gone = ranks < (shares[chosen % len(SHARES)] * count).round()[:, None, None]
        filled = imputed(view.expand(len(chosen), -1, -1, -1), gone)
        return filled + noise * gone[:, None]

    means: list[float | None] = subject.chances(len(SHARES), without).mean(dim=1).tolist()
    return means
