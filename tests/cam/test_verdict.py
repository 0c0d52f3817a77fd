"""The sentences that close a run, word by word."""

from __future__ import annotations

import numpy as np
import pytest

import camcli.cam.methods  # noqa: F401  (registers the methods)
from camcli.cam.verdict import Verdict
from camcli.cam.worth import Probe
from camcli.records import Cam, Score, Target


def cam(
    ratio: float = 1.0,
    *,
    method: str = "hirescam",
    layer: str = "layer4",
    completeness: float | None = None,
    location: float | None = None,
) -> Cam:
    """A map that sums to `ratio` times the score change of 4, from a baseline of 1."""
    return Cam(
        method=method,
        layer=layer,
        target=Target(0),
        label="tabby",
        score=5.0,
        cam=np.full((2, 2), ratio, np.float32),
        remainder=5.0 - 4 * ratio,
        outside_grid=0.0,
        baseline=1.0,
        completeness_error=completeness,
        location_error=location,
        faithful=(completeness or 0) <= 1e-3 and (location or 0) <= 1e-3,
    )


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
    assert sentences("first_order", *map(cam, ratios)) == [
        "HiResCAM at 'layer4' is a first-order view: sums are 1.6\u20132.8\u00d7 the score change."
    ]


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


def test_a_run_without_maps_says_nothing() -> None:
    assert Verdict({"layer4": Probe("exact", None, True)}).sentences() == []
