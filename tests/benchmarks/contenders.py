"""The contenders of tests.benchmarks.folder: each is a process that reads a folder's pictures.

    python -m tests.benchmarks.contenders NAME TASK

TASK is the JSON of a `Task`. Peers are used as their own documentation shows: a loop over the
files, torchvision's transforms, the map laid over the picture by the library's own function. The
frozen ones are helped: no parameter has a gradient, and what is recorded begins at the layer.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from camcli.cam.grid import Grid
from camcli.cli.process import own_process
from camcli.images.decode import DecodeSettings, decode
from camcli.images.discover import Inputs, Walk
from camcli.images.preprocess import Preprocessing
from camcli.models.fallback import import_torchvision
from camcli.models.inspection import default_layer, layers_of
from camcli.models.loaded import LoadedModel
from camcli.models.opening import open_model
from camcli.outputs import colormaps
from camcli.pipeline import DEFAULT_MAX_PIXELS, bounded_map
from camcli.records import Decoded

_QUALITY = 90  # of camcli's overlays too


@dataclass(frozen=True)
class Task:
    """What a contender does. `layer` and `grid` are those that camcli chose."""

    folder: str
    output: str
    model: str
    weights: str
    device: str
    batch_size: int
    size: int | None = None
    layer: str = ""
    grid: tuple[Any, ...] = ()

    def opened(self) -> LoadedModel:
        recipe = {} if self.size is None else {"size": self.size, "resize": self.size}
        return open_model(self.model, weights=self.weights, device=self.device, **recipe)

    def reshape(self) -> Callable[[Tensor], Tensor] | None:
        """What the peers call by that name, for layers whose output is no (N, C, h, w)."""
        grid = Grid(*self.grid)
        return None if grid.layout == "NCHW" else grid.maps


def predict(task: Task) -> None:
    """The least that camcli could cost: everything it does, except to explain."""
    own_process()
    model = task.opened()
    settings = DecodeSettings(model.preprocessing, None, DEFAULT_MAX_PIXELS)
    refs = Walk(Inputs((task.folder,))).refs()
    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        open(os.path.join(task.output, "predicted.txt"), "w", encoding="utf-8") as file,
        model.network.prepared(),
        torch.inference_mode(),
    ):
        decoded = bounded_map(pool, lambda ref: decode(ref, settings), refs, 2 * task.batch_size)
        pictures = (picture for picture in decoded if isinstance(picture, Decoded))
        while batch := list(itertools.islice(pictures, task.batch_size)):
            logits = model.logits(model.inputs([picture.view for picture in batch]))
            for picture, index in zip(batch, logits.argmax(dim=1).tolist(), strict=True):
                file.write(f"{picture.ref.key}\t{index}\n")


class Photo(NamedTuple):
    """A picture as the peers' examples have it: whole, as the network sees it, and as its input."""

    target: str
    """Where its overlay is saved."""
    whole: Image.Image
    view: Image.Image
    x: Tensor


def photos(task: Task, recipe: Preprocessing) -> Iterator[list[Photo]]:
    """The folder's pictures in batches, one after the other."""
    from torchvision import transforms

    width, height = recipe.size
    how = transforms.InterpolationMode(recipe.interpolation)
    seen = transforms.Compose(
        [transforms.Resize(recipe.resize, how), transforms.CenterCrop((height, width))]
    )
    normalised = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(recipe.mean, recipe.std)]
    )
    names = iter(sorted(os.listdir(task.folder)))
    while batch := list(itertools.islice(names, task.batch_size)):
        found = []
        for name in batch:
            whole = Image.open(os.path.join(task.folder, name)).convert("RGB")
            view = seen(whole)
            target = os.path.join(task.output, os.path.splitext(name)[0] + ".jpg")
            found.append(Photo(target, whole, view, normalised(view)))
        yield found


def opened(task: Task, frozen: bool) -> tuple[nn.Module, nn.Module, Preprocessing]:
    """The network, its layer, and how pictures are prepared for it."""
    import_torchvision()
    model = task.opened()
    module: nn.Module = model.network.module.eval()
    layer = module.get_submodule(task.layer)
    if frozen:
        module.requires_grad_(False)
        layer.register_forward_hook(lambda _m, _x, output: output.requires_grad_().clone())
    else:
        module.requires_grad_(True)
    return module, layer, model.preprocessing


def pytorch_grad_cam(task: Task, frozen: bool = False) -> None:
    module, layer, recipe = opened(task, frozen)
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image

    with GradCAM(module, [layer], reshape_transform=task.reshape()) as cam:
        for batch in photos(task, recipe):
            heats = cam(input_tensor=torch.stack([photo.x for photo in batch]), targets=None)
            for photo, heat in zip(batch, heats, strict=True):
                drawn = show_cam_on_image(np.float32(photo.view) / 255, heat, use_rgb=True)
                Image.fromarray(drawn).save(photo.target, quality=_QUALITY)


def torchcam(task: Task, frozen: bool = False) -> None:
    module, layer, recipe = opened(task, frozen)
    from torchcam.methods import GradCAM
    from torchcam.utils import overlay_mask
    from torchvision.transforms.functional import to_pil_image

    with GradCAM(module, layer, reshape_transform=task.reshape()) as extractor:
        for batch in photos(task, recipe):
            scores = module(torch.stack([photo.x for photo in batch]).to(task.device))
            (heats,) = extractor(scores.argmax(dim=1).tolist(), scores)
            for photo, heat in zip(batch, heats, strict=True):
                mask = to_pil_image(heat.cpu(), mode="F")
                overlay_mask(photo.whole, mask, alpha=0.5).save(photo.target, quality=_QUALITY)


def captum(task: Task, frozen: bool = False, pillow: bool = False) -> None:
    if task.reshape() is not None:
        raise SystemExit("its Grad-CAM is for layers of (N, C, h, w)")
    module, layer, recipe = opened(task, frozen=False)
    module.requires_grad_(not frozen)  # it asks the layer's output for a gradient itself
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(module, layer)
    draw = _by_pillow if pillow else _by_captum
    for batch in photos(task, recipe):
        x = torch.stack([photo.x for photo in batch]).to(task.device)
        predicted = module(x).argmax(dim=1)
        maps = method.attribute(x, target=predicted).detach()
        heats = LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")
        for photo, heat in zip(batch, heats[:, 0].cpu().numpy(), strict=True):
            draw(photo, heat)


def _by_captum(photo: Photo, heat: Any) -> None:
    from captum.attr import visualization

    figure, _ = visualization.visualize_image_attr(
        heat[:, :, None], np.asarray(photo.view), "blended_heat_map", sign="all", use_pyplot=False
    )
    figure.savefig(photo.target)


def _by_pillow(photo: Photo, heat: Any) -> None:
    """The least that an overlay of the view can cost."""
    levels = np.uint8(255 * np.clip(heat / max(float(heat.max()), 1e-12), 0, 1))
    colours = Image.fromarray(colormaps.table("jet")[levels])
    Image.blend(photo.view, colours, 0.5).save(photo.target, quality=_QUALITY)


PEERS: dict[str, Callable[[Task], None]] = {
    "pytorch-grad-cam": pytorch_grad_cam,
    "pytorch-grad-cam-frozen": lambda task: pytorch_grad_cam(task, frozen=True),
    "torchcam": torchcam,
    "torchcam-frozen": lambda task: torchcam(task, frozen=True),
    "captum": captum,
    "captum-frozen": lambda task: captum(task, frozen=True),
    "captum-frozen-pillow": lambda task: captum(task, frozen=True, pillow=True),
}


def machine(device: torch.device) -> dict[str, Any]:
    """What `processes.hardware` wants to know of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"gpu": name, "torch": torch.__version__, "threads": torch.get_num_threads()}


def describe(task: Task) -> None:
    """What the others are told, and what they run on, as JSON."""
    model = task.opened()
    layer = default_layer(model, layers_of(model))
    facts = {"layer": layer.module, "grid": list(asdict(layer.grid).values())}
    facts |= machine(model.device)
    with open(os.path.join(task.output, "facts.json"), "w", encoding="utf-8") as file:
        json.dump(facts, file)


def main() -> None:
    name, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    contenders = {"predict": predict, "describe": describe} | PEERS
    contenders[name](task)


if __name__ == "__main__":
    main()
