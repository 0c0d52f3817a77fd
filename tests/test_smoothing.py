"""`--smooth`: raw maps of changed views, averaged; and what is no longer promised of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camcli
from camcli import config
from camcli.cli.explain import job_of
from camcli.engine import Engine
from camcli.errors import UsageError
from camcli.models.loaded import LoadedModel
from camcli.models.passes import Pass
from camcli.outputs import schema
from camcli.records import Cam, Decoded, Explanation, Target
from camcli.registry import METHODS, all_gradient
from camcli.run import Run
from tests.conftest import as_model, live_in, noise_pictures

SAMPLES = Path(__file__).parent.parent / "samples"
CLASSES, LAYERS = 10, ("1", "3")
GRADIENT = [method.name for method in all_gradient()]
SEVERAL = [m.name for m in METHODS.values() if m.scope == "layers"]
OTHERS = [m.name for m in METHODS.values() if m.needs != "gradient"]


class Changed(LoadedModel):
    """A model that sees its pictures scaled, and perhaps mirrored."""

    factor = 1.0
    mirrored = False

    def inputs(self, views: Sequence[np.ndarray]) -> Tensor:
        view = super().inputs(views) * self.factor
        return view.flip(-1) if self.mirrored else view


def changed(model: LoadedModel, factor: float, mirrored: bool) -> LoadedModel:
    other = Changed(**{field.name: getattr(model, field.name) for field in fields(model)})
    object.__setattr__(other, "factor", factor)
    object.__setattr__(other, "mirrored", mirrored)
    return other


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """Two sizes of maps, and a head that weighs every place by itself: no symmetry helps."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()]
    return as_model(live_in(nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, CLASSES))), CLASSES)


@pytest.fixture(scope="module")
def pictures(model: LoadedModel) -> list[Decoded]:
    return noise_pictures(model, 3)


def maps(model: LoadedModel, pictures: list[Decoded], **how: object) -> dict[tuple, Cam]:
    """The maps by picture, method and layer, for one class whatever is predicted."""
    engine = Engine(model, target="3", batch_size=3, **how)
    with engine.prepared():
        explained = engine.explain(pictures)
    return {(n, cam.method, cam.layer): cam for n, e in enumerate(explained) for cam in e.cams}


FLIP, SCALE = [(1.0, True)], [(0.9, False), (1.1, False)]
BOTH = [*FLIP, *SCALE, (0.9, True), (1.1, True)]


@pytest.mark.parametrize(
    ("smooth", "views", "methods"),
    [
        (["flip"], FLIP, [*GRADIENT, *SEVERAL]),
        (["scale"], SCALE, [*GRADIENT, *SEVERAL]),
        (["scale", "flip"], BOTH, [*GRADIENT, *SEVERAL]),
        (["flip", "eigen"], FLIP, GRADIENT),
        (["eigen", "flip", "scale"], BOTH, GRADIENT),
    ],
    ids=lambda value: ",".join(value) if value and isinstance(value[0], str) else "",
)
def test_a_smoothed_map_is_the_mean_of_the_raw_maps_of_single_runs(
    model, pictures, smooth: list[str], views: list[tuple[float, bool]], methods: list[str]
) -> None:
    how = {"methods": methods, "layers": LAYERS}
    smoothed = maps(model, pictures, smooth=smooth, **how)
    kept = [name for name in smooth if name == "eigen"]
    plain = maps(model, pictures, smooth=kept, **how)
    singles = [
        (maps(changed(model, factor, mirrored), pictures, smooth=kept, **how), mirrored)
        for factor, mirrored in views
    ]
    assert len(smoothed) == 3 * (2 * len(GRADIENT) + (len(methods) - len(GRADIENT)))
    for key, cam in smoothed.items():
        raw = [plain[key].cam] + [m[key].cam[:, ::-1] if back else m[key].cam
                                  for m, back in singles]  # fmt: skip
        mean = np.mean(raw, axis=0, dtype=np.float64)
        largest = max(np.abs(one).max() for one in raw)
        np.testing.assert_allclose(cam.cam, mean, rtol=0, atol=1e-6 * largest, err_msg=str(key))
        assert cam.score == plain[key].score  # that of the picture as it is


def test_the_mean_is_not_that_of_maps_stretched_to_the_same_range(model, pictures) -> None:
    """A view on which the network sees little must not count as much as any other."""
    how = {"methods": ["hirescam"], "layers": ["3"]}
    smoothed = maps(model, pictures, smooth=["flip"], **how)
    plain, mirrored = maps(model, pictures, **how), maps(changed(model, 1, True), pictures, **how)
    for key, cam in smoothed.items():
        one, other = plain[key].cam, mirrored[key].cam[:, ::-1]
        np.testing.assert_array_equal(cam.cam, (one + other) / 2)
        stretched = one / one.max() + other / other.max()
        assert np.abs(cam.cam / cam.cam.max() - stretched / stretched.max()).max() > 0.01


def test_a_mirrored_map_is_turned_back() -> None:
    """A network that is itself symmetric loses nothing by the flip, however lopsided a picture."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 8, 8, 8)
    with torch.no_grad():
        convolution.weight.add_(convolution.weight.flip(-1))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)]
    model = as_model(live_in(nn.Sequential(convolution, nn.ReLU(), *head)), CLASSES)
    pictures = noise_pictures(model, 2)
    how = {"methods": ["hirescam", "layercam", "eigengradcam"]}
    plain = maps(model, pictures, **how)
    for key, cam in maps(model, pictures, smooth=["flip"], **how).items():
        one = plain[key].cam
        np.testing.assert_allclose(cam.cam, one, rtol=0, atol=1e-5 * np.abs(one).max())
        assert np.abs(one - one[:, ::-1]).max() > 0.1 * np.abs(one).max()


@pytest.mark.parametrize("name", GRADIENT)
def test_eigen_is_the_first_singular_component_of_the_contributions(
    model, pictures, name: str
) -> None:
    eigen = maps(model, pictures, methods=[name], layers=LAYERS, smooth=["eigen"])
    engine = Engine(model, methods=[name], layers=LAYERS, batch_size=3)
    with engine.prepared():
        view = model.inputs([picture.view for picture in pictures])
        captures = Pass(model, view, engine.layers, [0, 1, 2]).captures([Target(3)] * 3)
    for layer in engine.layers:
        parts = METHODS[name].function(captures[layer]).double().numpy()
        parts = parts if parts.ndim == 4 else parts[:, None]  # EigenGrad-CAM has one already
        for n, part in enumerate(parts):
            matrix = part.reshape(len(part), -1).T
            _, _, right = np.linalg.svd(matrix, full_matrices=False)
            component = matrix @ right[0]
            component *= np.sign((component * matrix.sum(axis=1)).sum())
            found = eigen[n, name, layer.name].cam
            expected = component.reshape(found.shape)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_eigen_shows_something_else_than_the_sum(model, pictures) -> None:
    how = {"methods": ["hirescam"], "layers": ["3"]}
    plain, eigen = maps(model, pictures, **how), maps(model, pictures, smooth=["eigen"], **how)
    for key, cam in eigen.items():
        assert np.abs(cam.cam - plain[key].cam).max() > 0.01 * np.abs(plain[key].cam).max()


def test_a_smoothed_map_has_the_same_bits_alone_and_beside_others(model, pictures) -> None:
    engine = Engine(model, methods=["all-gradient"], smooth=["flip", "scale"], batch_size=3)
    with engine.prepared():
        together = engine.explain(pictures)
        alone = [engine.explain([picture])[0] for picture in pictures]
    for one, other in zip(together, alone, strict=True):
        assert [cam.cam.tobytes() for cam in one.cams] == [cam.cam.tobytes() for cam in other.cams]


@pytest.mark.parametrize("name", OTHERS)
def test_what_takes_more_than_a_gradient_is_refused(model, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Engine(model, methods=["hirescam", name], smooth=["flip"])
    assert str(caught.value) == (
        f"--smooth flip is for methods of one gradient, which {name} is not; leave it away, or see "
        "camcli methods"
    )


@pytest.mark.parametrize("name", SEVERAL)
def test_fused_layers_have_no_channels_to_take_a_component_of(model, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        Engine(model, methods=[name], layers=LAYERS, smooth=["flip", "eigen"])
    assert str(caught.value) == (
        "--smooth eigen is for what the channels of one layer add up to; "
        f"{name} fuses the maps of several; leave it away"
    )


def test_a_kind_that_is_none_is_refused_with_a_suggestion(model) -> None:
    with pytest.raises(UsageError) as caught:
        Engine(model, smooth=["flips"])
    assert str(caught.value) == (
        "smooth must be one of flip, scale, eigen, not 'flips'; did you mean 'flip'?"
    )


def nothing_promised(entry: dict) -> None:
    for name in ("remainder", "outside_grid", "baseline", "completeness_error", "location_error"):
        assert entry[name] is None, name
    assert entry["faithful"] is False


@pytest.mark.parametrize("smooth", [["flip"], ["scale"], ["eigen"], ["eigen", "flip", "scale"]])
def test_the_record_says_what_was_averaged_and_promises_nothing(
    model, pictures, smooth: list[str]
) -> None:
    engine = Engine(model, methods=["hirescam"], layers=["3"], batch_size=3)
    assert engine.probes[engine.layers[0]].score == "exact"  # there would be something to promise
    engine = Engine(model, methods=["all-gradient"], layers=["3"], smooth=smooth, batch_size=3)
    with engine.prepared():
        explained = engine.explain(pictures)
    for explanation in explained:
        record = json.loads(json.dumps(camcli.record(explanation)))
        jsonschema.validate(record, schema())
        assert [entry["method"] for entry in record["explanations"]] == GRADIENT
        for entry in record["explanations"]:
            assert sorted(entry["smoothing"]) == sorted(smooth)
            nothing_promised(entry)


SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2",
         "isolate": False}  # fmt: skip
PHOTOS = (str(SAMPLES / "coffee.jpg"), str(SAMPLES / "helmet.jpg"))


def a_run(out: Path, count: int = 2, **flags: object) -> Run:
    chosen, _ = config.resolve(SMALL | {"output": str(out)} | flags, {}, None)
    return Run(job_of(chosen, PHOTOS[:count], set()))


def test_the_closing_lines_say_that_the_guarantee_is_void(tmp_path: Path) -> None:
    run = a_run(tmp_path, smooth=["flip,scale"], method=["hirescam,gradcam"])
    records = list(run.records())
    assert run.summary.verdict == [
        "Maps are smoothed (--smooth flip,scale): no guarantee of any method holds for them, and "
        "nothing is claimed about how much of the score they account for."
    ]
    manifest = json.loads((tmp_path / "run.json").read_bytes())
    assert manifest["smoothing"] == manifest["identity"]["smoothing"] == ["flip", "scale"]
    assert manifest["verdict"] == run.summary.verdict
    for record in records:
        for entry in record["explanations"]:
            assert entry["smoothing"] == ["flip", "scale"]
            nothing_promised(entry)


@pytest.mark.parametrize(("before", "after"), [("flip", ""), ("", "flip"), ("flip", "flip,eigen")])
def test_a_run_is_not_gone_on_with_under_another_smoothing(
    tmp_path: Path, before: str, after: str
) -> None:
    list(a_run(tmp_path, 1, smooth=[before]).records())
    maps = sorted(tmp_path.rglob("*.npz"))
    with pytest.raises(UsageError) as caught:
        list(a_run(tmp_path, smooth=[after]).records())
    assert str(caught.value) == (
        f"'{tmp_path}' holds maps made with another smoothing; choose another directory with -o, "
        "or start over with --overwrite"
    )
    assert sorted(tmp_path.rglob("*.npz")) == maps


def test_the_order_in_which_it_is_given_changes_nothing(tmp_path: Path) -> None:
    list(a_run(tmp_path, 1, smooth=["scale,flip"]).records())
    run = a_run(tmp_path, smooth=["flip", "scale", "flip"])
    assert len(list(run.records())) == 1
    assert run.summary.already_done == 1


def test_the_setting_comes_from_flags_the_environment_and_files(tmp_path: Path) -> None:
    file = tmp_path / "camcli.toml"
    file.write_text('smooth = ["flip"]\n')
    environment = {"CAMCLI_SMOOTH": "scale,eigen"}
    found = [
        config.resolve({}, {}, None),
        config.resolve({}, {}, file),
        config.resolve({}, environment, file),
        config.resolve({"smooth": ["eigen", "flip"]}, environment, file),
    ]
    assert [chosen.smooth for chosen, _ in found] == [
        (), ("flip",), ("scale", "eigen"), ("eigen", "flip")]  # fmt: skip
    origins = [origin["smooth"] for _, origin in found]
    assert origins == ["default", str(file), "environment", "flag"]
    file.write_text('smooth = ["flipp"]\n')
    with pytest.raises(UsageError, match=r"must be one of flip, scale, eigen, not 'flipp'; did yo"):
        config.resolve({}, {}, file)


@pytest.mark.parametrize("given", ["flip", ["flip"], ("flip", "scale")])
def test_python_knows_it_too(model, given: str | Sequence[str]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (outcome,) = camcli.explain([array], model=model, smooth=given, batch_size=1)
    assert isinstance(outcome, Explanation)
    assert outcome.cams[0].smoothing == ((given,) if isinstance(given, str) else tuple(given))
