"""Each peer's raw result for a batch, as its own documentation says to ask for it.

The peers change the modules they are given (hooks, gradients, ReLUs replaced): give them a copy.
They are imported when called, so that the everyday tests do not need them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def pytorch_grad_cam(
    method: str, module: nn.Module, layer: str, x: Tensor, classes: Sequence[int]
) -> Tensor:
    """The signed map (N, h, w), before rectification and both rounds of scaling."""
    import pytorch_grad_cam as library
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    target, targets = module.get_submodule(layer), [ClassifierOutputTarget(c) for c in classes]
    with getattr(library, method)(model=module, target_layers=[target]) as cam:
        cam.batch_size = 8
        cam(input_tensor=x, targets=targets)
        kept = cam.activations_and_grads
        activation = kept.activations[0].numpy()
        gradient = kept.gradients[0].numpy() if kept.gradients else None
        return torch.from_numpy(cam.get_cam_image(x, target, targets, activation, gradient, False))


def torchcam(
    method: str, module: nn.Module, layer: str, x: Tensor, classes: Sequence[int]
) -> Tensor:
    """The rectified map (N, h, w), not scaled."""
    import torchcam.methods as library

    with getattr(library, method)(module, layer) as cam:
        scores = module(x)
        given = {} if method == "ScoreCAM" else {"scores": scores}
        return cam(list(classes), normalized=False, **given)[0].detach()


def captum(method: str, module: nn.Module, layer: str, x: Tensor, classes: Sequence[int]) -> Tensor:
    """The signed map (N, h, w) of a layer's attribution, its channels summed."""
    import captum.attr as library

    target = torch.tensor(classes)
    found = getattr(library, method)(module, module.get_submodule(layer)).attribute(
        x, target=target
    )
    return found.detach().sum(dim=1)


def guided_by_pytorch_grad_cam(module: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Guided backpropagation (N, 3, H, W), signed, one picture after the other."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    guided = GuidedBackpropReLUModel(module, device="cpu")
    found = [
        guided(row[None].clone(), target_category=c) for row, c in zip(x, classes, strict=True)
    ]
    return torch.stack([torch.from_numpy(row).permute(2, 0, 1) for row in found])


def guided_by_captum(module: nn.Module, x: Tensor, classes: Sequence[int]) -> Tensor:
    """Guided backpropagation (N, 3, H, W), signed."""
    from captum.attr import GuidedBackprop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its hooks
        found = GuidedBackprop(module).attribute(x.clone(), target=torch.tensor(classes))
    return found.detach()
