"""Which of a network's module calls are feature maps, and under which names."""

from __future__ import annotations

import pytest

from camcli.cam.grid import Grid
from camcli.cam.layers import Layer, ModuleCall, feature_maps, find_layer
from camcli.errors import UsageError

VIEW = (64, 64)
MAP, HALF, POOLED, LOGITS = (1, 32, 8, 8), (1, 32, 4, 4), (1, 32, 1, 1), (1, 10)


def made(name: str, kind: str, shape: tuple[int, ...] = MAP, call: int = 0) -> ModuleCall:
    """A call of a module that makes a new tensor."""
    parametric = kind in ("Conv2d", "Linear", "BatchNorm2d")
    return ModuleCall(name, kind, call, shape, same=False, changed=True, parametric=parametric)


def handed_on(name: str, kind: str = "Sequential", shape: tuple[int, ...] = MAP) -> ModuleCall:
    """A container that returns what its last child returned."""
    return ModuleCall(name, kind, 0, shape, same=True, changed=True, parametric=False)


def passed_through(name: str, kind: str, shape: tuple[int, ...] = MAP) -> ModuleCall:
    """A module that returns the tensor it was given."""
    return ModuleCall(name, kind, 0, shape, same=True, changed=False, parametric=False)


def names(*calls: ModuleCall, classes: int = 10) -> list[tuple[str, ...]]:
    return [layer.names for layer in feature_maps(calls, VIEW, classes)]


def test_a_map_goes_by_the_outermost_module_that_hands_it_out() -> None:
    calls = [
        made("layer4.1.conv2", "Conv2d"),
        made("layer4.1.relu", "ReLU"),
        handed_on("layer4.1", "BasicBlock"),
        handed_on("layer4"),
        made("avgpool", "AdaptiveAvgPool2d", POOLED),
        made("fc", "Linear", LOGITS),
    ]
    conv, relu = feature_maps(calls, VIEW, 10)
    assert conv.names == ("layer4.1.conv2",)
    assert relu == Layer(
        name="layer4",
        type="ReLU",
        module="layer4",
        call=0,
        grid=Grid("NCHW", 32, 8, 8),
        names=("layer4", "layer4.1", "layer4.1.relu"),
    )


@pytest.mark.parametrize(
    "kind", ["Dropout", "Dropout2d", "StochasticDepth", "DropPath", "Identity", "Flatten"]
)
def test_what_returns_its_input_ends_no_map_and_makes_none(kind: str) -> None:
    assert names(
        made("features.0", "Conv2d"),
        passed_through("features.1", kind),
        handed_on("features"),
        made("classifier", "Linear", LOGITS),
    ) == [("features", "features.0")]


@pytest.mark.parametrize(
    "kind", ["MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "LPPool2d", "Dropout", "DropPath"]
)
def test_what_moves_or_thins_a_map_makes_none_and_ends_the_one_before(kind: str) -> None:
    assert names(
        made("features.0", "Conv2d"),
        made("features.1", "ReLU"),
        made("features.2", kind, HALF),
        handed_on("features", shape=HALF),  # hands out the pooled map, not the ReLU's
        made("classifier", "Linear", LOGITS),
    ) == [("features.0",), ("features.1",)]


def test_an_activation_in_place_is_a_map_of_its_own() -> None:
    # The same tensor object, but a later version: `same` is False.
    assert names(
        made("0", "Conv2d"), made("1", "ReLU"), handed_on("features"), made("fc", "Linear", LOGITS)
    ) == [("0",), ("features", "1")]


def test_a_wrapper_that_returns_its_own_input_names_nothing() -> None:
    assert names(
        made("conv", "Conv2d"),
        passed_through("wrapper.inner", "Identity"),
        passed_through("wrapper", "Sequential"),
        made("fc", "Linear", LOGITS),
    ) == [("conv",)]


def test_a_container_after_something_else_names_no_map() -> None:
    assert names(
        made("a", "Conv2d"),
        made("gate", "Linear", LOGITS),
        handed_on("outer", shape=LOGITS),
        made("fc", "Linear", LOGITS),
    ) == [("a",)]


def test_a_module_called_again_is_numbered_and_its_last_call_goes_by_the_plain_name() -> None:
    layers = feature_maps(
        [
            made("relu", "ReLU", call=0),
            made("conv", "Conv2d"),
            made("relu", "ReLU", call=1),
            made("bn", "BatchNorm2d"),
            made("relu", "ReLU", call=2),
            handed_on("block", "Bottleneck"),
            made("fc", "Linear", LOGITS),
        ],
        VIEW,
        10,
    )
    assert [layer.names for layer in layers] == [
        ("relu:0",),
        ("conv",),
        ("relu:1",),
        ("bn",),
        ("block", "relu"),
    ]
    assert [(layer.module, layer.call) for layer in layers][::2] == [
        ("relu", 0),
        ("relu", 1),
        ("block", 0),
    ]


def test_one_map_per_class_at_the_end_is_the_answer_and_no_layer() -> None:
    # SqueezeNet: classifier = Dropout, Conv2d to the classes, ReLU, pooling.
    class_map = (1, 10, 8, 8)
    assert names(
        made("features.0", "Conv2d"),
        handed_on("features"),
        passed_through("classifier.0", "Dropout"),
        made("classifier.1", "Conv2d", class_map),
        made("classifier.2", "ReLU", class_map),
        made("classifier.3", "AdaptiveAvgPool2d", (1, 10, 1, 1)),
        handed_on("classifier", shape=(1, 10, 1, 1)),
    ) == [("features", "features.0")]


def test_as_many_channels_as_classes_by_accident_are_a_layer() -> None:
    assert names(
        made("features.0", "Conv2d"),
        made("features.1", "ReLU"),
        handed_on("features"),
        made("pool", "AdaptiveAvgPool2d", POOLED),
        made("fc", "Linear", (1, 32)),
        classes=32,
    ) == [("features.0",), ("features", "features.1")]


def test_what_has_no_places_is_no_layer() -> None:
    assert (
        names(
            made("gate.pool", "AdaptiveAvgPool2d", POOLED),
            made("gate.fc", "Conv2d", POOLED),
            made("head", "Linear", LOGITS),
        )
        == []
    )


def test_tokens_and_channels_last_are_layers_too() -> None:
    layers = feature_maps(
        [
            made("ln", "LayerNorm", (1, 65, 192)),
            made("norm", "LayerNorm", (1, 8, 8, 96)),
            made("head", "Linear", LOGITS),
        ],
        VIEW,
        10,
    )
    assert [layer.grid for layer in layers] == [
        Grid("tokens", 192, 8, 8, prefix=1),
        Grid("NHWC", 96, 8, 8),
    ]


def resnet_like() -> list[Layer]:
    calls = [
        made("layer3.relu", "ReLU"),
        handed_on("layer3"),
        made("layer4.relu", "ReLU", HALF, call=0),
        made("layer4.relu", "ReLU", HALF, call=1),
        handed_on("layer4", shape=HALF),
        made("fc", "Linear", LOGITS),
    ]
    return feature_maps(calls, VIEW, 10)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("layer3", "layer3"),
        ("layer3.relu", "layer3"),
        ("layer4.relu:0", "layer4.relu:0"),
        ("layer4.relu", "layer4"),
        ("layer4", "layer4"),
    ],
)
def test_a_layer_is_found_under_each_of_its_names(name: str, found: str) -> None:
    assert find_layer(resnet_like(), name, "resnet50").name == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "layer5",
            "no layer 'layer5' in resnet50; did you mean 'layer4'? "
            "List them: camcli layers resnet50",
        ),
        ("zzz", "no layer 'zzz' in resnet50. List them: camcli layers resnet50"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_with_a_hint(name: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_layer(resnet_like(), name, "resnet50")
    assert str(caught.value) == message
