"""The theorem of HiResCAM's paper, measured: which methods show the places that a network used.

    python -m tests.benchmarks.theorem [PHOTOS…] [--size N] [--count N] [--tried N]

The paper's networks: global average pooling is left out, and the feature maps A go, place by place,
into one linear layer. What a place added to the score is then known: w * A summed over channels;
for DenseNet, which rectifies its features first, w * relu(A). The figure is the L2 distance between
a method's raw map and that map, both of unit length; orthogonal maps are 1.41 apart.
PHOTOS are files and folders; without any, those of CAMCLI_PHOTOS, else the samples. Methods that
run the network again and again are tried on the first few of them; SS-CAM and IS-CAM, ten times as
costly as Score-CAM, only where `--try` names them.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor, nn

from camcli.engine import Engine
from camcli.images.decode import DecodeSettings, decode
from camcli.images.discover import Inputs, Walk
from camcli.models.fallback import import_torchvision
from camcli.models.loaded import LoadedModel
from camcli.pipeline import DEFAULT_MAX_PIXELS
from camcli.records import Decoded, Explanation
from camcli.registry import all_gradient
from tests.conftest import as_model, live_in

NETWORKS = {"resnet34": "ResNet-34-v", "densenet121": "DenseNet-121-v"}
CHEAP = [*(method.name for method in all_gradient()), "shapleycam", "random"]
COSTLY = ["smoothgradcampp", "ablationcam", "reciprocam", "groupcam", "scorecam"]
CLASSES = 20
BATCH = 16

Map = npt.NDArray[np.float64]


class Flattened(nn.Module):
    """A classifier's features without its pooling, and one linear layer on all of their places."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        whole = getattr(import_torchvision().models, name)(weights=None)
        self.rectifies = hasattr(whole, "features")
        trunk = [part for part in whole.children() if not isinstance(part, nn.AdaptiveAvgPool2d)]
        self.features = whole.features if self.rectifies else nn.Sequential(*trunk[:-1])
        self.side = size // 32
        self.linear = nn.Linear(trunk[-1].in_features * self.side**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        return self.linear((F.relu(maps, inplace=True) if self.rectifies else maps).flatten(1))

    @contextmanager
    def inputs_of_linear(self) -> Iterator[list[Tensor]]:
        """What the linear layer is given, (N, C h w), call by call."""
        kept: list[Tensor] = []
        hook = self.linear.register_forward_pre_hook(lambda _, x: kept.append(x[0].detach()))
        try:
            yield kept
        finally:
            hook.remove()

    def used(self, given: Tensor, index: int) -> Map:
        """What each place added to a class's score, (h, w), from the linear layer's input."""
        shares = self.linear.weight[index].detach().double() * given.double()
        return shares.reshape(-1, self.side, self.side).sum(dim=0).numpy()


class Case:
    """A network of the paper with lived-in weights, and pictures for it.

    Batch statistics are calibrated on the first of the pictures that `load` gives.
    """

    def __init__(self, name: str, size: int, load: Callable[[LoadedModel], list[Decoded]]) -> None:
        torch.manual_seed(0)
        self.module = Flattened(name, size)
        self.model = as_model(self.module, CLASSES, size)
        self.pictures = load(self.model)
        views = [picture.view for picture in self.pictures[:BATCH]]
        live_in(self.module, size, pictures=self.model.inputs(views))

    def distances(self, methods: Sequence[str], count: int) -> dict[str, list[float]]:
        """Every method's distances from what was used for the predicted class, `count` pictures."""
        found: dict[str, list[float]] = defaultdict(list)
        engine = Engine(self.model, methods=methods, batch_size=BATCH)
        with engine.prepared():
            for start in range(0, count, BATCH):
                batch = self.pictures[start : min(start + BATCH, count)]
                with self.module.inputs_of_linear() as given:
                    outcomes = engine.explain(batch)
                for maps, outcome in zip(given[0], outcomes, strict=False):  # then comes padding
                    assert isinstance(outcome, Explanation)
                    used = self.module.used(maps, outcome.predictions[0].index)
                    for cam in outcome.cams:
                        found[cam.method].append(distance(_reduced(cam.cam, used.shape), used))
        return dict(found)


def distance(one: Map, other: Map) -> float:
    """L2 between the maps at unit length; an empty map stays empty."""
    one, other = (m / (float(np.linalg.norm(m)) or 1.0) for m in (one, other))
    return float(np.linalg.norm(one - other))


def _reduced(cam: npt.NDArray[np.float32], shape: tuple[int, ...]) -> Map:
    """A map on a grid of that shape: Group-CAM's, which has the view's size, by averages."""
    return F.adaptive_avg_pool2d(torch.from_numpy(cam).double()[None], shape)[0].numpy()


def photos(sources: Sequence[str], count: int) -> Callable[[LoadedModel], list[Decoded]]:
    """Loads the first pictures found, prepared for a model; what cannot be read is passed over."""

    def load(model: LoadedModel) -> list[Decoded]:
        settings = DecodeSettings(model.preprocessing, None, DEFAULT_MAX_PIXELS)
        found: list[Decoded] = []
        for ref in Walk(Inputs(tuple(sources))).refs():
            picture = decode(ref, settings)
            if isinstance(picture, Decoded):
                found.append(picture)
            if len(found) == count:
                break
        return found

    return load


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", nargs="*", default=[os.environ.get("CAMCLI_PHOTOS", "samples")])
    parser.add_argument("--size", type=int, default=224, help="of the view, a multiple of 32")
    parser.add_argument("--count", type=int, default=100, help="pictures")
    parser.add_argument("--tried", type=int, default=3, help="pictures for methods of many passes")
    parser.add_argument("--try", dest="costly", nargs="+", default=COSTLY, help="those methods")
    options = parser.parse_args()
    rows: dict[str, list[str]] = defaultdict(list)
    for name in NETWORKS:
        case = Case(name, options.size, photos(options.photos, options.count))
        count = len(case.pictures)
        several = case.distances(options.costly, min(options.tried, count))
        for method, found in (case.distances(CHEAP, count) | several).items():
            rows[method] += [str(len(found))] if not rows[method] else []
            rows[method] += [_figure(sum(found) / len(found)), _figure(max(found))]
    print(
        "L2 distance of maps of unit length from the places that the network used: predicted "
        f"class, views of {options.size} pixels, lived-in random weights, layer `features`, the "
        "last map before the linear layer; Group-CAM's map reduced to that grid by averages.\n"
    )
    print("| method | pictures |" + "".join(f" {n}, mean | max |" for n in NETWORKS.values()))
    print("|---|---|" + "---|---|" * len(NETWORKS))
    for method, cells in rows.items():
        print(f"| {method} | {' | '.join(cells)} |")


def _figure(value: float) -> str:
    return f"{value:.0e}" if value < 1e-3 else f"{value:.2f}"


if __name__ == "__main__":
    main()
