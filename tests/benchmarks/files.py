"""What explaining a model file costs beside a plain forward pass of the same file.

    python -m tests.benchmarks.files [MODEL…] [--batch-size N] [--rounds N]

Every architecture is traced, scripted, frozen and exported, saved, and loaded back: once as anyone
would, by torch alone, and once by camcli, for one HiResCAM map a picture. Rounds alternate between
the two; a figure is the median of their ratios. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from camcli.engine import Engine
from camcli.models.fallback import import_torchvision
from camcli.models.opening import open_model
from camcli.models.output import logits_of
from camcli.timing import noise, seconds
from tests.benchmarks.contenders import machine
from tests.benchmarks.processes import hardware, publish

MODELS = ("resnet18", "resnet50", "vgg16", "densenet121", "mobilenet_v3_small", "efficientnet_b0",
          "convnext_tiny", "swin_t", "vit_b_16", "googlenet", "squeezenet1_1", "regnet_y_400mf",
          "shufflenet_v2_x1_0", "efficientnet_lite0")  # fmt: skip
SIDE = 224


def eager(name: str) -> nn.Module:
    models = import_torchvision().models
    if name == "efficientnet_lite0":
        import timm

        return timm.create_model("tf_efficientnet_lite0").eval()
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    module = models.get_model(name, **options).eval()
    for parameter in module.parameters():
        if not parameter.any():  # a head of zeros has no gradient
            nn.init.normal_(parameter, std=0.02)
    return module


def traced(module: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        return torch.jit.trace(module, x, check_trace=False)


def written(form: str, module: nn.Module, folder: Path) -> Path:
    """The file of a module in one of the forms."""
    path, x = folder / f"{form}.pt", torch.zeros(2, 3, SIDE, SIDE)
    if form == "exported":
        path = path.with_suffix(".pt2")
        torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: Dim("n")},)), path)
        return path
    script = torch.jit.script(module) if form == "scripted" else traced(module, x)
    torch.jit.save(torch.jit.freeze(script) if form == "frozen" else script, str(path))
    return path


def plain(path: Path) -> Callable[[Tensor], Tensor]:
    """The file as torch's own documentation loads it."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return torch.jit.load(str(path))


def ratio(path: Path, batch_size: int, rounds: int) -> float:
    """The time of explaining a batch over that of the plain forward pass of it."""
    model = open_model(
        str(path), size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), device="cpu"
    )
    engine = Engine(model, batch_size=batch_size)
    batch, network = noise((SIDE, SIDE), batch_size), plain(path)

    def forward() -> None:
        with torch.inference_mode():
            answer = network(model.inputs([picture.view for picture in batch]))
            logits_of(answer, count=batch_size).argmax(dim=1)

    def explain() -> None:
        engine.explain(batch)

    with engine.prepared():
        for _ in range(3):  # TorchScript's own executor compiles in its second run
            forward()
            explain()
        return statistics.median(seconds(explain) / seconds(forward) for _ in range(rounds))


def report(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    yield f"Batches of {options.batch_size}; {hardware(machine(torch.device('cpu')))}"
    yield ""
    forms = ("traced", "scripted", "frozen", "exported")
    yield f"| network | {' | '.join(forms)} |"
    yield "|---|---|---|---|---|"
    for name in options.models:
        module, row = eager(name), []
        with tempfile.TemporaryDirectory() as folder:
            for form in forms:
                path = written(form, module, Path(folder))
                row.append(f"{ratio(path, options.batch_size, options.rounds):.2f}×")
        yield f"| {name} | {' | '.join(row)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch.jit, of torchvision: nothing about speed
    publish(report(options), options.output)


if __name__ == "__main__":
    main()
