"""Every torchvision classifier explains itself without a flag: its layer, grid and probe class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camcli.engine import Engine
from camcli.models.inspection import synthetic_pictures
from camcli.models.loaded import LoadedModel
from camcli.models.torchvision import build, builders
from camcli.records import Decoded, Explanation
from tests.conftest import as_model, live_in, noise_pictures

# The last map before pooling, and what follows it:
# - exact: ReLU, pooling, one linear layer;
# - first_order: more than one linear layer (AlexNet, VGG, MobileNetV3), or a ReLU after the
#   biased convolution that classifies (SqueezeNet);
# - scale_invariant: a normalisation after pooling (ConvNeXt, MaxViT);
# - bypassed: the class token, which the last attention's residual carries past it (ViT).
FAMILIES = {
    ("features.11", (13, 13), "first_order"): "alexnet",
    ("features", (7, 7), "scale_invariant"): (
        "convnext_base convnext_large convnext_small convnext_tiny"
    ),
    ("features", (7, 7), "exact"): (
        "densenet121 densenet161 densenet169 densenet201 "
        "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 "
        "efficientnet_b5 efficientnet_b6 efficientnet_b7 "
        "efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s mobilenet_v2"
    ),
    ("inception5b", (7, 7), "exact"): "googlenet",
    ("Mixed_7c", (8, 8), "exact"): "inception_v3",
    ("blocks.3", (7, 7), "scale_invariant"): "maxvit_t",
    ("layers", (7, 7), "exact"): "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3",
    ("features", (7, 7), "first_order"): "mobilenet_v3_large mobilenet_v3_small",
    ("trunk_output", (7, 7), "exact"): (
        "regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf "
        "regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf "
        "regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf"
    ),
    ("layer4", (7, 7), "exact"): (
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext101_32x8d resnext101_64x4d "
        "resnext50_32x4d wide_resnet101_2 wide_resnet50_2"
    ),
    ("conv5", (7, 7), "exact"): (
        "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0"
    ),
    ("features", (13, 13), "first_order"): "squeezenet1_0 squeezenet1_1",
    ("permute", (7, 7), "exact"): "swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t",
    ("features.19", (14, 14), "first_order"): "vgg11",
    ("features.27", (14, 14), "first_order"): "vgg11_bn",
    ("features.23", (14, 14), "first_order"): "vgg13",
    ("features.33", (14, 14), "first_order"): "vgg13_bn",
    ("features.29", (14, 14), "first_order"): "vgg16",
    ("features.42", (14, 14), "first_order"): "vgg16_bn",
    ("features.35", (14, 14), "first_order"): "vgg19",
    ("features.51", (14, 14), "first_order"): "vgg19_bn",
    ("encoder.layers.encoder_layer_11.ln_1", (14, 14), "bypassed"): "vit_b_16",
    ("encoder.layers.encoder_layer_11.ln_1", (7, 7), "bypassed"): "vit_b_32",
    ("encoder.layers.encoder_layer_23.ln_1", (14, 14), "bypassed"): "vit_l_16",
    ("encoder.layers.encoder_layer_23.ln_1", (7, 7), "bypassed"): "vit_l_32",
    ("encoder.layers.encoder_layer_31.ln_1", (16, 16), "bypassed"): "vit_h_14",
}
EXPECTED = {name: expected for expected, names in FAMILIES.items() for name in names.split()}

# A small builder of most families; those of the others take seconds.
SMALL = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_small regnet_x_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 "
    "swin_t"
)
HUGE = "regnet_y_128gf vit_h_14"


def test_the_table_knows_every_builder_that_torchvision_has() -> None:
    assert set(builders()) <= set(EXPECTED)


def lived_in(name: str) -> tuple[LoadedModel, list[Decoded]]:
    """A builder's network that is at home with two pictures, and the pictures."""
    module = build(name)
    model = as_model(module, classes=1000, size=299 if name == "inception_v3" else 224)
    pictures = noise_pictures(model, 2)
    seen = torch.cat([synthetic_pictures(model), model.inputs([p.view for p in pictures])])
    live_in(module, pictures=seen)
    return model, pictures


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    if name in HUGE.split():
        return (pytest.mark.soak,)
    return () if name in SMALL.split() else (pytest.mark.slow,)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=marks(name)) for name in builders()],
)
def test_a_builder_is_explained_at_the_right_layer_without_a_flag(name: str) -> None:
    model, pictures = lived_in(name)
    engine = Engine(model, methods=("hirescam", "gradcam"), batch_size=2)
    with engine.prepared():
        explanations = engine.explain(pictures)

    (layer,) = engine.layers
    grid = (layer.grid.height, layer.grid.width)
    score = engine.probes[layer].score
    assert (layer.name, grid, score) == EXPECTED[name]
    for explanation in explanations:
        assert isinstance(explanation, Explanation)
        for cam in explanation.cams:
            assert cam.cam.shape == grid
            assert np.isfinite(cam.cam).all()
            assert cam.cam.any()
        assert explanation.cams[0].faithful == (score == "exact")


@pytest.mark.parametrize(
    ("name", "pooled"),
    [("mobilenet_v3_small", True), ("squeezenet1_1", False), ("densenet121", False)],
)
def test_a_relu_before_the_pooling_sets_a_layer_apart_from_a_pooled_one(name, pooled) -> None:
    """SqueezeNet's is open everywhere for the predicted class here, and not for the others."""
    engine = Engine(lived_in(name)[0], batch_size=2)
    assert engine.probes[engine.layers[0]].pooled is pooled
