"""A bright spot comes back to where it was: in the map, in the record, in the overlay on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camcli.cam.targets import Classes
from camcli.engine import Engine
from camcli.images.decode import DecodeSettings, decode
from camcli.images.geometry import Fit
from camcli.images.preprocess import Preprocessing
from camcli.models.eager import EagerNetwork
from camcli.models.loaded import LoadedModel
from camcli.outputs import arrays, colormaps
from camcli.outputs.render import Style
from camcli.outputs.sink import DirectorySink
from camcli.records import Decoded, ImageRef

VIEW, CELLS = 112, 7
UPRIGHT = (320, 200)
# Which visual side the file's first row and first column show (EXIF 2.32, tag 274).
SIDES = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
         5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"),
         8: ("left", "bottom")}  # fmt: skip


def brightness_network() -> nn.Module:
    """A network whose only feature map, 7x7, is the brightness of each cell."""
    network = nn.Sequential(
        nn.AvgPool2d(VIEW // CELLS),
        nn.Conv2d(3, 4, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.copy_(0.1 + torch.rand(parameter.shape, generator=generator))
    return network


def engine_for(fit: Fit) -> Engine:
    model = LoadedModel(
        name="brightness",
        network=EagerNetwork(brightness_network()),
        weights="none",
        weights_sha256=None,
        preprocessing=Preprocessing(
            (VIEW, VIEW), 128, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", fit, "a test"
        ),
        classes=Classes(2, ("dark", "bright")),
        labels="none",
        activation="softmax",
        device=torch.device("cpu"),
    )
    return Engine(model, target="bright", batch_size=2)


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    return {fit: engine_for(fit) for fit in ("crop", "squash", "pad")}


def photo_with_spot(path: Path, spot: tuple[int, int], orientation: int) -> None:
    """A dim gray photo, a white disk at `spot` of the upright picture, stored as EXIF says."""
    width, height = UPRIGHT
    upright = np.random.default_rng(1).integers(20, 40, (height, width), np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    upright[(x - spot[0]) ** 2 + (y - spot[1]) ** 2 < 12**2] = 255
    first_row, first_column = SIDES[orientation]
    stored = upright if first_row in ("top", "bottom") else upright.T
    stored = stored[::-1] if first_row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if first_column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=95, exif=exif)


def hottest_place(overlay: Image.Image) -> tuple[float, float]:
    """The centre of the hottest pixels, in source pixels: colours read back as levels.

    The photo is gray and no colour of viridis is, so what is not coloured matches no level.
    """
    as_number = np.array([65536, 256, 1])
    table = colormaps.table("viridis") @ as_number
    matches = (np.asarray(overlay.convert("RGB")) @ as_number)[:, :, None] == table
    levels = np.where(matches.any(axis=2), matches.argmax(axis=2), -1)
    assert levels.max() > 240
    y, x = np.nonzero(levels == levels.max())
    scale = UPRIGHT[0] / overlay.width
    return float(x.mean() + 0.5) * scale, float(y.mean() + 0.5) * scale


@pytest.mark.parametrize("spot", [(95, 140), (230, 47)], ids=["low left", "high right"])
@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_a_bright_spot_comes_back_to_where_it_was(
    tmp_path: Path, engines: dict[str, Engine], fit: str, orientation: int, spot: tuple[int, int]
) -> None:
    engine = engines[fit]
    photo_with_spot(tmp_path / "spot.jpg", spot, orientation)
    style = Style(colormap="viridis", alpha=1.0, blend="flat", overlay_format="png")
    settings = DecodeSettings(engine.model.preprocessing, 160, 10**8)
    sink = DirectorySink(
        tmp_path, frozenset({"json", "npz", "overlay"}), style, "", False, ("dark", "bright")
    )

    decoded = decode(ImageRef(str(tmp_path / "spot.jpg"), "spot.jpg"), settings)
    assert isinstance(decoded, Decoded)
    with engine.prepared():
        (explained,) = engine.explain([decoded])
    sink.write(explained)

    record = json.loads((tmp_path / "json" / "spot.jpg.json").read_bytes())
    (entry,) = record["explanations"]
    assert (record["width"], record["height"]) == UPRIGHT
    assert record["exif_orientation"] == orientation

    left, top, right, bottom = record["view"]["crop_box"]
    cell = (right - left) / CELLS, (bottom - top) / CELLS
    (cam,), _ = arrays.read(tmp_path / "maps" / "spot.jpg.npz")
    assert cam.shape == (CELLS, CELLS)
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    # The map: the hottest cell is the one that holds the centre of the spot.
    assert left + column * cell[0] <= spot[0] <= left + (column + 1) * cell[0]
    assert top + row * cell[1] <= spot[1] <= top + (row + 1) * cell[1]
    # The record: the peak is that cell's centre, and the hot box holds the spot.
    assert entry["peak_xy"] == pytest.approx(
        (left + (column + 0.5) * cell[0], top + (row + 0.5) * cell[1])
    )
    x0, y0, x1, y1 = entry["hot_box"]
    assert x0 <= spot[0] <= x1
    assert y0 <= spot[1] <= y1
    # The overlay: what is most coloured on the upright photo is the spot.
    with Image.open(tmp_path / entry["overlay"]) as overlay:
        assert overlay.size == (160, 100)
        x, y = hottest_place(overlay)
    assert abs(x - spot[0]) <= cell[0]
    assert abs(y - spot[1]) <= cell[1]


def test_a_spot_outside_the_crop_never_reaches_the_network(
    tmp_path: Path, engines: dict[str, Engine]
) -> None:
    engine = engines["crop"]
    photo_with_spot(tmp_path / "spot.jpg", (15, 100), 1)
    decoded = decode(
        ImageRef(str(tmp_path / "spot.jpg"), "spot.jpg"),
        DecodeSettings(engine.model.preprocessing, None, 10**8),
    )
    assert isinstance(decoded, Decoded)
    assert decoded.geometry.seen[0] > 27
    assert decoded.view.max() < 60
