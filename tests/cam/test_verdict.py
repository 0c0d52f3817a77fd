"""The sentences that close a run, word by word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import camcli.cam.methods  # noqa: F401  (registers the methods)
from camcli.cam.verdict import Verdict
from camcli.cam.worth import Probe
from camcli.records import Cam, Score, Target
from camcli.registry import METHODS


def cam(
    ratio: float = 1.0,
    *,
    method: str = "hirescam",
    layer: str = "layer4",
    completeness: float | None = None,
    location: float | None = None,
    **changed: object,
) -> Cam:
    """A map that sums to `ratio` times the score change of 4, from a baseline of 1."""
    made = Cam(
        method=method,
        layer=layer,
        target=Target(0),
        label="tabby",
        score=5.0,
        cam=np.array([[2 * ratio, ratio], [ratio, 0]], np.float32),
        remainder=5.0 - 4 * ratio,
        outside_grid=0.0,
        baseline=1.0,
        completeness_error=completeness,
        location_error=location,
        faithful=completeness is not None
        and completeness <= 1e-3
        and location is not None
        and location <= 1e-3,
    )
    return replace(made, **changed)


def sentences(score: Score, *cams: Cam, pooled: bool = False) -> list[str]:
    probes = {layer: Probe(score, None, pooled) for layer in dict.fromkeys(c.layer for c in cams)}
    verdict = Verdict(probes)
    for one in cams:
        verdict.add(one)
    return verdict.sentences()


def test_maps_that_account_for_the_score_are_counted() -> None:
    errors = [4e-7] + 999 * [1e-8]
    assert sentences("exact", *(cam(completeness=e, location=0.0) for e in errors)) == [
        "1,000 of 1,000 HiResCAM maps at 'layer4' account for the class score exactly "
        "(largest error 4e-07)."
    ]


def test_maps_that_miss_say_by_how_much_in_sum_and_place() -> None:
    missing = cam(method="gradcam", completeness=0.0312, location=0.514)
    right = cam(method="gradcam", completeness=1e-8, location=1e-8)
    assert sentences("exact", right, missing) == [
        "1 of 2 Grad-CAM maps at 'layer4' account for the class score exactly "
        "(sums miss by up to 0.03 of the score change, places by up to 0.5)."
    ]


def test_a_first_order_view_says_what_its_sums_are_beside_the_score_change() -> None:
    ratios = [1.5, 1.82, 2.349, 2.9]
    assert sentences("first_order", *map(cam, ratios)) == [
        "HiResCAM at 'layer4' is a first-order view: sums are 1.5\u20132.9\u00d7 the score change."
    ]


def test_a_single_first_order_map_is_not_called_a_range() -> None:
    assert sentences("first_order", cam(1.72)) == [
        "HiResCAM at 'layer4' is a first-order view: sums are 1.7\u00d7 the score change."
    ]


def test_the_range_of_a_first_order_view_leaves_out_one_in_twenty_at_either_end() -> None:
    ratios = [-50.0, *np.linspace(1.5, 2.9, 98), 1000.0]
    assert sentences("first_order", *map(cam, ratios))[0] == (
        "HiResCAM at 'layer4' is a first-order view: sums are 1.6\u20132.8\u00d7 the score change."
    )


def test_a_normalisation_after_the_layer_is_explained() -> None:
    assert sentences("scale_invariant", cam()) == [
        "HiResCAM at 'layer4': a normalisation follows, so the sum of a map is zero for any "
        "picture and carries no information; read each map relative to itself."
    ]


def test_a_path_around_the_layer_is_explained() -> None:
    assert sentences("bypassed", cam(layer="encoder.ln_1")) == [
        "HiResCAM at 'encoder.ln_1' is a first-order view of one path: part of the score passes "
        "the layer by (a residual connection or a class token), so how much the maps account for "
        "cannot be said."
    ]


def test_methods_that_coincide_under_global_average_pooling_are_said_to() -> None:
    exact = {"completeness": 1e-7, "location": 0.0}
    assert sentences("exact", cam(**exact), cam(method="gradcam", **exact), pooled=True) == [
        "1 of 1 HiResCAM maps at 'layer4' account for the class score exactly "
        "(largest error 1e-07).",
        "1 of 1 Grad-CAM maps at 'layer4' account for the class score exactly "
        "(largest error 1e-07).",
        "Global average pooling follows 'layer4': HiResCAM, Grad-CAM, XGrad-CAM and CAM are the "
        "same map there.",
    ]


@pytest.mark.parametrize("score", ["exact", "first_order", "scale_invariant", "bypassed"])
def test_every_method_and_layer_has_its_sentence_in_the_order_of_the_maps(score: Score) -> None:
    lines = sentences(
        score,
        cam(layer="layer4"),
        cam(layer="layer3"),
        cam(layer="layer4", method="gradcam"),
        cam(layer="layer3", method="gradcam"),
    )
    found = [("Grad-CAM" if "Grad-CAM" in line else "HiResCAM", line.split("'")[1])
             for line in lines]  # fmt: skip
    assert found == [
        ("HiResCAM", "layer4"),
        ("HiResCAM", "layer3"),
        ("Grad-CAM", "layer4"),
        ("Grad-CAM", "layer3"),
    ]


def test_where_no_map_changes_the_score_no_factor_is_given() -> None:
    same = cam(0.5, score=1.0, remainder=-1.0)
    assert sentences("first_order", same, same) == [
        "HiResCAM at 'layer4' is a first-order view, and no map changes the score: it is the same "
        "with the layer at zero."
    ]


def test_maps_that_add_up_to_nothing_are_still_given_their_factor() -> None:
    nothing = cam(0.0, cam=np.array([[-1, 1]], np.float32))
    assert sentences("first_order", nothing) == [
        "HiResCAM at 'layer4' is a first-order view: sums are 0\u00d7 the score change."
    ]


BROKEN = np.array([[np.nan, 1.0]], np.float32)


@pytest.mark.parametrize("place", range(3))
def test_an_error_that_is_no_number_does_not_vanish_among_small_ones(place: int) -> None:
    maps = [cam(completeness=1e-7, location=0.0) for _ in range(2)]
    maps.insert(place, cam(cam=BROKEN, completeness=np.nan, location=np.nan, remainder=np.nan))
    assert sentences("exact", *maps) == [
        "2 of 3 HiResCAM maps at 'layer4' account for the class score exactly (largest error "
        "1e-07). Not measured: 1 whose map or score is NaN or infinite.",
        "1 of 3 maps is not finite (NaN or infinity) and cannot be read.",
    ]


def test_a_score_that_overflows_is_not_measured_though_the_map_is_finite() -> None:
    over = cam(score=np.inf, remainder=np.inf, completeness=np.nan, location=0.1)
    assert sentences("exact", over) == [
        "0 of 1 HiResCAM maps at 'layer4' account for the class score exactly. Not measured: 1 "
        "whose map or score is NaN or infinite."
    ]
    assert sentences("first_order", over, cam(1.5)) == [
        "HiResCAM at 'layer4' is a first-order view: sums are 1.5\u00d7 the score change. Not "
        "measured: 1 whose map or score is NaN or infinite."
    ]
    assert sentences("first_order", over) == [
        "HiResCAM at 'layer4' is a first-order view. Not measured: 1 whose map or score is NaN or "
        "infinite."
    ]


def test_ratios_that_are_no_numbers_take_no_room() -> None:
    verdict = Verdict({"layer4": Probe("first_order", None, False)})
    for _ in range(100):
        verdict.add(cam(np.nan, cam=BROKEN))
    (tally,) = verdict._tallies.values()
    assert (tally.maps, tally.unmeasured, len(tally.ratios)) == (100, 100, 0)


def test_maps_that_show_nothing_are_counted_over_the_run() -> None:
    good = [cam(completeness=1e-7, location=0.0) for _ in range(94)]
    negative = [cam(-1.0, method="scorecam") for _ in range(3)]
    flat = [cam(method="gradcam", layer="layer3", cam=np.ones((2, 2), np.float32))] * 2
    broken = [cam(method="fem", cam=BROKEN)]
    assert sentences("exact", *good, *negative, *flat, *broken)[-3:] == [
        "3 of 100 maps are negative everywhere: nothing speaks for the class there; see camcli "
        "render --signed.",
        "2 of 100 maps are the same everywhere: no place stands out.",
        "1 of 100 maps is not finite (NaN or infinity) and cannot be read.",
    ]


def test_methods_in_other_units_share_one_line_that_claims_nothing() -> None:
    others = [
        cam(method=method, layer=layer, baseline=None, remainder=None)
        for layer in ("layer4", "layer3")
        for method in ("scorecam", "eigencam")
    ]
    exact = cam(completeness=1e-7, location=0.0)
    assert sentences("exact", *others[:1], exact, *others[1:])[1:] == [
        "Score-CAM, Eigen-CAM: not in units of the score; nothing is claimed about how much of it "
        "they account for."
    ]


@pytest.mark.parametrize("score", ["exact", "first_order", "scale_invariant", "bypassed"])
@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.units == "score"])
def test_every_method_in_score_units_has_its_sentence_wherever_it_is(
    method: str, score: Score
) -> None:
    for layer in ("layer4", "input"):
        (line,) = sentences(score, cam(1.5, method=method, layer=layer))
        assert METHODS[method].title in line
        assert f"'{layer}'" in line


def test_methods_fused_from_several_layers_need_no_probe() -> None:
    verdict = Verdict({})
    verdict.add(cam(method="layercam_fusion", layer="layer3+layer4", baseline=None))
    assert verdict.sentences() == [
        "LayerCAM fusion: not in units of the score; nothing is claimed about how much of it they "
        "account for."
    ]


def test_smoothed_maps_are_promised_nothing() -> None:
    unknown = {"baseline": None, "remainder": None, "smoothing": ("flip", "scale")}
    smoothed = [cam(method=name, **unknown) for name in ("hirescam", "layercam", "gradcam")]
    assert sentences("exact", *smoothed) == [
        "Maps are smoothed (--smooth flip,scale): no guarantee of any method holds for them, and "
        "nothing is claimed about how much of the score they account for."
    ]


def test_a_run_without_maps_says_nothing() -> None:
    assert Verdict({"layer4": Probe("exact", None, True)}).sentences() == []
