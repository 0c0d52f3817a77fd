"""Model files that cannot be explained: each is refused in one sentence that says what can."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.files import quiet, rewritten

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit and quantization are deprecated

EXAMPLE = torch.zeros(1, 3, 32, 32)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.more = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3)))


class Quantizable(Small):
    def __init__(self) -> None:
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        features = self.dequant(self.more(self.relu(self.conv(self.quant(x)))))
        return self.fc(features.mean(dim=(2, 3)))


class Underived(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.conv(x))
        return self.fc(self.more(features * torch.heaviside(features, features)).mean(dim=(2, 3)))


class UnderivedAtLast(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.more(self.relu(self.conv(x)))
        return self.fc((features * torch.heaviside(features, features)).mean(dim=(2, 3)))


class OnlyForked(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.jit.wait(torch.jit.fork(self.conv, x)).mean(dim=(2, 3)))


class Detached(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3)).detach())


class WithoutGradients(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.more(self.relu(self.conv(x))).mean(dim=(2, 3))
        with torch.no_grad():
            return self.fc(features)


class Deciding(Small):
    def forward(self, x: Tensor) -> Tensor:
        logits = self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3)))
        return nn.functional.one_hot(logits.argmax(dim=1), 5).float()


class Unused(Small):
    """Its second convolution runs, and nothing takes what it returns."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.conv(x))
        self.more(features)
        return self.fc(features.mean(dim=(2, 3)))


class Skipped(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.conv(x))
        if x.shape[2] > 1000:
            features = self.more(features)
        return self.fc(features.mean(dim=(2, 3)))


class Forked(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.conv(x))
        other = torch.jit.fork(self.more, features)
        return self.fc((features + torch.jit.wait(other)).mean(dim=(2, 3)))


with quiet():

    @torch.jit.interface
    class Block(nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            pass


class Behind(Small):
    more: Block

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.more.forward(self.relu(self.conv(x))).mean(dim=(2, 3)))


class TwoInputs(Small):
    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3))) + age


class TwoPictures(Small):
    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        features = self.more(self.relu(self.conv(x + other)))
        return self.fc(features.mean(dim=(2, 3)))


class TakesList(Small):
    def forward(self, x: list[Tensor]) -> Tensor:
        return self.fc(self.more(self.relu(self.conv(x[0]))).mean(dim=(2, 3)))


class Raising(Small):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 0:
            raise ValueError("pictures of cats only")
        return x


class NoForward(nn.Module):
    @torch.jit.export
    def classify(self, x: Tensor) -> Tensor:
        return x


Make = Callable[[Path], Path]


def saved(module: Any, path: Path) -> Path:
    torch.jit.save(module, str(path))
    return path


def scripted(kind: type[nn.Module]) -> Make:
    return lambda folder: saved(torch.jit.script(kind().eval()), folder / "model.pt")


def traced(kind: type[nn.Module]) -> Make:
    def make(folder: Path) -> Path:
        module = torch.jit.trace(kind().eval(), EXAMPLE, check_trace=False)
        return saved(module, folder / "model.pt")

    return make


def exported(kind: type[nn.Module], *more: Tensor) -> Make:
    def make(folder: Path) -> Path:
        with quiet():
            program = torch.export.export(kind().eval(), (EXAMPLE, *more))
            torch.export.save(program, folder / "model.pt2")
        return folder / "model.pt2"

    return make


def quantized_weights(folder: Path) -> Path:
    module = torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear})
    return saved(torch.jit.trace(module, EXAMPLE, check_trace=False), folder / "model.pt")


def quantized(folder: Path) -> Path:
    module = Quantizable().eval()
    engine = torch.backends.quantized.supported_engines[-1]
    module.qconfig = torch.ao.quantization.get_default_qconfig(engine)
    torch.ao.quantization.prepare(module, inplace=True)
    module(torch.rand(2, 3, 32, 32))
    torch.ao.quantization.convert(module, inplace=True)
    return saved(torch.jit.script(module), folder / "model.pt")


def for_inference(folder: Path) -> Path:
    frozen = torch.jit.freeze(torch.jit.script(Small().eval()))
    return saved(torch.jit.optimize_for_inference(frozen), folder / "model.pt")


def with_operator(path: Path, operator: str) -> Path:
    """A copy of a file whose convolutions are another operator."""

    def edit(name: str, content: bytes) -> bytes:
        if not name.endswith(".py"):
            return content
        return re.sub(rb"torch\.(conv2d|_convolution)\(", f"ops.{operator}(".encode(), content)

    return rewritten(path, edit)


def replaced(operator: str) -> Make:
    return lambda folder: with_operator(scripted(Small)(folder), operator)


def mobile(folder: Path) -> Path:
    """What optimize_for_mobile makes; where torch was built without XNNPACK, as it names it."""
    from torch.utils.mobile_optimizer import optimize_for_mobile

    try:
        module = optimize_for_mobile(torch.jit.script(Small().eval()))
    except RuntimeError:
        return replaced("prepacked.conv2d_clamp_run")(folder)
    return saved(module, folder / "model.pt")


def lite(folder: Path) -> Path:
    path = folder / "model.ptl"
    module = torch.jit.trace(Small().eval(), EXAMPLE, check_trace=False)
    module._save_for_lite_interpreter(str(path))
    return path


def flatbuffer(folder: Path) -> Path:
    path = folder / "model.ptl"
    try:
        from torch.jit._serialization import save_jit_module_to_flatbuffer
    except ImportError:
        path.write_bytes(b"\x30\0\0\0PTMF" + bytes(100))
    else:
        save_jit_module_to_flatbuffer(torch.jit.script(Small().eval()), str(path))
    return path


def compiled(folder: Path) -> Path:
    """An AOTInductor package, laid out as torch lays it out."""
    path = folder / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/aotinductor/model/cabc.wrapper.so", b"\x7fELF" + bytes(100))
        archive.writestr("model/data/aotinductor/model/cabc_metadata.json", "{}")
        for name, content in (("archive_format", "pt2"), ("archive_version", "0"),
                              ("byteorder", "little"), (".data/version", "3\n")):  # fmt: skip
            archive.writestr(f"model/{name}", content)
    return path


QUANTIZED = (
    r"model\.pt is quantized: its activations are whole numbers \(quint8\), which have no "
    r"gradient; export the float model"
)
MOBILE = r"\S+ is optimized for mobile, which has no gradient; use the original file"
NO_GRADIENT = (
    r"no gradient comes back from the score of model\.pt2? to any of its layers, as after no_grad, "
    r"detach or argmax; trace or export it again with gradients enabled"
)
UNDERIVED = (
    r"aten::heaviside\S* in model\.pt2? has no derivative; export it again with gradients enabled, "
    r"or explain a layer behind it \(camcli layers lists them\)"
)
ROWS: list[tuple[str, Make, str]] = [
    ("quantized", quantized, QUANTIZED),
    ("quantized weights", quantized_weights, QUANTIZED),
    ("optimized for inference", for_inference,
     r"model\.pt was saved after torch\.jit\.optimize_for_inference, which has no gradient; save it"
     r" again before optimize_for_inference"),
    ("mobile", mobile, MOBILE),
    ("mobile, lite interpreter",
     lambda folder: with_operator(lite(folder), "prepacked.conv2d_clamp_run"), MOBILE),
    ("mobile, flatbuffer", flatbuffer,
     r"'\S+' is no model file: it is a TorchScript file optimized for mobile \(flatbuffer\); use "
     r"the original file"),
    ("mobile, vulkan", replaced("vulkan_prepack.run_conv2d_context"), MOBILE),
    ("torchvision operator", replaced("torchvision.deform_conv2d"),
     r"'\S+' needs the operator torchvision::deform_conv2d, which is not there: it comes with a "
     r"compiled torchvision or a library of custom operators"),
    ("no gradient: detach", scripted(Detached), NO_GRADIENT),
    ("no gradient: no_grad", scripted(WithoutGradients), NO_GRADIENT),
    ("no gradient: argmax", traced(Deciding), NO_GRADIENT),
    ("no gradient: detach, exported", exported(Detached), NO_GRADIENT),
    ("no derivative", traced(UnderivedAtLast), UNDERIVED),
    ("no derivative, exported", exported(UnderivedAtLast), UNDERIVED),
    ("two inputs", scripted(TwoInputs),
     r"model\.pt needs inputs other than one image tensor \(age\); export it with those built in"),
    ("two inputs, exported", exported(TwoInputs, torch.ones(1)),
     r"model\.pt2 needs inputs other than one image tensor \(age\); export a module that takes the "
     r"image alone"),
    ("two pictures, exported", exported(TwoPictures, EXAMPLE),
     r"model\.pt2 needs inputs other than one image tensor \(other\); export a module that takes "
     r"the image alone"),
    ("a list of tensors", scripted(TakesList),
     r"model\.pt takes List\[Tensor\], not one image tensor"),
    ("all in a fork", scripted(OnlyForked),
     r"model\.pt has no feature map with more than one place to explain, or none outside of forks "
     r"and interfaces; give a network that keeps places, as convolutions do"),
    ("no forward", scripted(NoForward),
     r"model\.pt has no method forward to run; save a module that has one"),
    ("raises", scripted(Raising),
     r"model\.pt cannot be run on pictures of 32x32 \(builtins\.ValueError: pictures of cats "
     r"only\); give the size it was made for with --size"),
    ("compiled package", compiled,
     r"'\S+' is a compiled package \(AOTInductor\), which has no graph to explain; give the file "
     r"that torch\.export\.save wrote"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_what_cannot_be_explained_is_said_in_one_sentence(
    refused: Callable, tmp_path: Path, make: Make, sentence: str
) -> None:
    said = refused(make(tmp_path))
    assert re.fullmatch(sentence, said), said


HIDDEN = (
    r"'more' of model\.pt is not visible as a layer: it did not run, has no map with places, or is "
    r"inside a fork or behind an interface; list those that are: camcli layers \S+/model\.pt"
)
NAMED: list[tuple[str, Make, str]] = [
    ("not run", scripted(Skipped), HIDDEN),
    ("not in the trace", traced(Unused), HIDDEN),
    ("in a fork", scripted(Forked), HIDDEN),
    ("in a traced fork", traced(Forked), HIDDEN),
    ("behind an interface", scripted(Behind), HIDDEN),
    ("not used", scripted(Unused),
     r"the score of model\.pt does not depend on the places of 'more' \(their gradient is zero\); "
     r"use --layer relu"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), [r[1:] for r in NAMED], ids=[r[0] for r in NAMED])
def test_a_layer_that_a_file_does_not_show_is_a_wrong_name(
    refused: Callable, tmp_path: Path, make: Make, sentence: str
) -> None:
    said = refused(make(tmp_path), "--layer", "more", status=2, listed=True)
    assert re.fullmatch(sentence, said), said


def test_a_layer_that_is_nowhere_is_told_by_the_path_that_lists_them(refused, tmp_path) -> None:
    path = scripted(Small)(tmp_path)
    said = refused(path, "--layer", "mor", status=2, listed=True)
    assert said == (
        f"no layer 'mor' in model.pt; did you mean 'more'? List them: camcli layers {path}"
    )


def test_a_layer_behind_an_operator_without_a_derivative_is_explained(
    refused: Callable, cli: Callable, tmp_path: Path
) -> None:
    path = scripted(Underived)(tmp_path)
    assert re.fullmatch(UNDERIVED, refused(path, "--layer", "conv", listed=True))
    listed = [line[:7].strip() for line in cli("layers", path, "--size", "32").stdout.splitlines()]
    assert listed == ["conv", "relu", "* more"]


def test_a_file_for_the_lite_interpreter_that_is_not_optimized_is_one_like_others(
    cli: Callable, tmp_path: Path
) -> None:
    assert "* more" in cli("layers", lite(tmp_path)).stdout


def test_processes_end_with_the_status_and_the_sentence(camcli, tmp_path, picture) -> None:
    path = mobile(tmp_path)
    done = camcli("explain", picture("a.png"), "--model", path, "-o", tmp_path / "out", check=1)
    (line,) = done.stderr.decode().splitlines()
    assert re.fullmatch("camcli: " + MOBILE, line)
