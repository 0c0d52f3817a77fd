"""Small models whose answers are known, and maps of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from camcli.evaluation.answers import Answers
from camcli.evaluation.subject import Subject
from camcli.models.loaded import LoadedModel
from camcli.records import Cam, Decoded, Explanation, Target
from tests.conftest import as_model, live_in, noise_pictures

SIZE = 24


class Share(nn.Module):
    """p(class 0) = sum_p w_p (mean colour of pixel p + 1) / 2, linear in the normalised view."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight / weight.sum())

    def forward(self, x: Tensor) -> Tensor:
        share = ((x.mean(dim=1) + 1) / 2 * self.weight).sum(dim=(1, 2))
        return torch.stack([share, 1 - share], dim=1).log()


def convolutional() -> LoadedModel:
    """Two convolutions, global average pooling and one linear layer; lived in."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(),
                         nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.ReLU())  # fmt: skip
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    return as_model(live_in(nn.Sequential(*body, *pooled), SIZE), 4, SIZE)


def linear(seed: int = 0) -> LoadedModel:
    """Logits that are linear in the view, with a bias."""
    torch.manual_seed(seed)
    return as_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3)), 3, SIZE)


def picture(model: LoadedModel, seed: int = 0) -> Decoded:
    return noise_pictures(model, 1, seed)[0]


def cam(name: str, values: np.ndarray, target: Target) -> Cam:
    return Cam(name, "layer", target, "class", 0.0, values.astype(np.float32), None, None, None,
               None, None, False)  # fmt: skip


def subject_of(
    model: LoadedModel,
    image: Decoded,
    maps: Mapping[str, np.ndarray],
    targets: Sequence[Target] = (Target(0),),
    seed: int = 0,
) -> Subject:
    """The maps for each of the targets, as an explanation holds them."""
    cams = tuple(cam(name, values, target) for target in targets for name, values in maps.items())
    return Subject(Explanation(image, model.name, (), cams), Answers(model, 16), None, seed)


def random_maps(count: int, grid: tuple[int, int] = (4, 5), seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {f"map {n}": generator.normal(size=grid) for n in range(count)}
