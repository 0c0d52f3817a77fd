"""TorchScript files explain themselves as the modules they were made from do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from camcli.cam.layers import Layer, find_layer
from camcli.engine import Engine
from camcli.errors import ModelError, ModelWarning, UsageError
from camcli.models.inspection import default_layer, layers_of
from camcli.models.loaded import LoadedModel
from camcli.models.torchscript import ScriptNetwork, open_script, script_facts
from camcli.records import Explanation
from tests.conftest import as_model, live_in, noise_pictures

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

CLASSES = 10
CPU = torch.device("cpu")
SIDES = {"googlenet": 96, "densenet121": 64}
MIDDLE = {
    "resnet18": "layer3",
    "mobilenet_v3_small": "features.8",
    "densenet121": "features.denseblock2",
    "squeezenet1_1": "features.7",
    "convnext_tiny": "features.5",
    "swin_t": "features.5",
    "vit": "encoder.layers.encoder_layer_1.ln_1",
    "googlenet": "inception4c",
    "efficientnet_lite0": "blocks.4",
}
HIDDEN = {"vit": {"MultiheadAttention"}, "efficientnet_lite0": {"BatchNormAct2d"}}
EVERYDAY = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "vit")
FORMS = ("traced", "scripted", "frozen")


def small_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96,
        num_classes=CLASSES,
    )  # fmt: skip


def built(name: str) -> nn.Module:
    if name == "vit":
        return small_vit()
    if name == "efficientnet_lite0":
        import timm

        return timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES)
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    return models.get_model(name, num_classes=CLASSES, **options)


class Doubled(LoadedModel):
    """Pictures in float64, where freezing's other order of rounding does not show."""

    def inputs(self, views: Any) -> Tensor:
        return super().inputs(views).double()


@cache
def eager(name: str, double: bool = False) -> LoadedModel:
    torch.manual_seed(0)
    side = SIDES.get(name, 64)
    model = as_model(live_in(built(name), side), CLASSES, side)
    return (
        Doubled(**vars(as_model(model.network.module.double(), CLASSES, side))) if double else model
    )


def example(model: LoadedModel) -> Tensor:
    weights = next(model.network.module.parameters())
    return torch.zeros(1, 3, *model.preprocessing.size, dtype=weights.dtype)


@cache
def script(name: str, form: str) -> Any:
    """The module of a file: traced under no_grad, scripted, or traced and frozen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        model = eager(name, double=form == "frozen")
        if form == "scripted":
            return torch.jit.script(model.network.module)
        gradients = torch.enable_grad if name == "vit" and form == "frozen" else torch.no_grad
        with gradients():
            traced = torch.jit.trace(model.network.module, example(model), check_trace=False)
        return torch.jit.freeze(traced) if form == "frozen" else traced


def saved(module: Any, path: Path, **extra: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(module, str(path), **extra)
    return path


def opened(model: LoadedModel, module: Any, path: Path, **options: Any) -> LoadedModel:
    """A LoadedModel around the file of a script made from a model."""
    network = open_script(saved(module, path), CPU, **options)
    return replace(model, name=path.name, network=network)


def maps(model: LoadedModel, *layers: str, target: str = "predicted") -> list[Explanation]:
    engine = Engine(
        model, methods=["hirescam", "gradcam++"], layers=layers, target=target, batch_size=2
    )
    with engine.prepared():
        return engine.explain(noise_pictures(model, 2))


def assert_same_maps(got: list[Explanation], expected: list[Explanation]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert len(one.cams) == len(other.cams)
        for own, true in zip(one.cams, other.cams, strict=True):
            assert own.target == true.target
            scale = float(np.abs(true.cam).max())
            assert scale > 0
            np.testing.assert_allclose(own.cam, true.cam, rtol=0, atol=1e-5 * scale)
            for figure in ("completeness_error", "location_error", "baseline", "outside_grid"):
                mine, theirs = getattr(own, figure), getattr(true, figure)
                assert mine == (
                    None if theirs is None else pytest.approx(theirs, rel=1e-4, abs=1e-4)
                )


def activation(model: LoadedModel, layer: Layer) -> Tensor:
    with model.network.prepared(), torch.no_grad():
        x = model.inputs([picture.view for picture in noise_pictures(model, 1)])
        _, (output,) = model.capture(x, [layer])
    return output.detach()


def counterpart(model: LoadedModel, frozen: LoadedModel, layer: Layer) -> Layer:
    """The operator of a frozen file that puts out what a layer of the eager model does."""
    true = layer.grid.maps(activation(model, layer))
    for other in reversed(layers_of(frozen)):
        if (other.grid.height, other.grid.width) == (layer.grid.height, layer.grid.width):
            found = other.grid.maps(activation(frozen, other))
            if found.shape == true.shape and (found - true).abs().max() < 1e-3 * true.abs().max():
                return other
    raise AssertionError(f"nothing in the frozen file is {layer.name}")


def matrix() -> Iterator[Any]:
    for name in MIDDLE:
        for form in FORMS:
            marks = () if name in EVERYDAY else (pytest.mark.slow,)
            yield pytest.param(name, form, id=f"{name} {form}", marks=marks)


@pytest.mark.parametrize(("name", "form"), list(matrix()))
def test_a_file_explains_itself_as_its_module_does(name: str, form: str, tmp_path: Path) -> None:
    model = eager(name, double=form == "frozen")
    file = opened(model, script(name, form), tmp_path / f"{name}.pt")
    true, own = layers_of(model), layers_of(file)
    default, middle = default_layer(model, true), find_layer(true, MIDDLE[name], name)
    chosen = default_layer(file, own)
    if form == "frozen":  # without modules
        chosen = counterpart(model, file, default)
        names = [chosen.name, counterpart(model, file, middle).name]
    else:
        names = {layer.name for layer in true}
        assert [layer for layer in own if layer.name in names] == true
        # Tracing drops what returns no tensor: identities, and the weights that attention returns.
        hidden = {layer.type for layer in own if layer.name not in names}
        assert hidden <= (HIDDEN.get(name, set()) if form == "traced" else set())
        assert chosen == default
        names = [default.name, middle.name]
    assert_same_maps(
        maps(file, *names, target="top:3"), maps(model, default.name, middle.name, target="top:3")
    )


class Small(nn.Module):
    """Two maps and a linear head, with room for what files hold that modules do not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.relu = nn.ReLU(inplace=True)
        self.more = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3)))


class OneAtATime(Small):
    def forward(self, x: Tensor) -> Tensor:
        features = self.more(self.relu(self.conv(x)))
        return self.fc(features.mean(dim=(2, 3)).view(int(x.shape[0]), 8))


class Mixing(Small):
    """Traced with one picture, it takes any number and averages over all of them."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.more(self.relu(self.conv(x)))
        pooled = features.reshape(int(x.shape[0]), -1, 8, 64).mean(dim=(1, 3))
        return self.fc(pooled).expand(x.shape[0], CLASSES)


class TwoInputs(Small):
    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3))) + age


class Scaled(Small):
    def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
        return factor * self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3)))


class Keyed(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.more(self.relu(self.conv(x))).mean(dim=(2, 3))
        return {"features": features, "logits": self.fc(features)}


class Writing(Small):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "written")
        return self.fc(self.more(self.relu(self.conv(x))).mean(dim=(2, 3)))


def small(kind: type[nn.Module] = Small) -> LoadedModel:
    torch.manual_seed(0)
    module = kind()
    module.forward, forward = Small.forward.__get__(module), module.forward  # to calibrate
    live_in(module)
    module.forward = forward
    del module.__dict__["forward"]
    return as_model(module, CLASSES)


def traced(model: LoadedModel, rows: int = 1) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(
            model.network.module, torch.zeros(rows, 3, 64, 64), check_trace=False
        )


def scripted(model: LoadedModel) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(model.network.module)


@pytest.mark.parametrize("make", [traced, scripted])
def test_explaining_leaves_the_module_as_it_was(make: Callable[..., Any]) -> None:
    model = small()
    module = make(model)
    module.train()
    module.more.eval()
    module.conv.weight.requires_grad_(False)
    file = replace(model, network=ScriptNetwork(module, CPU))

    def state() -> Any:
        return (
            [m.training for m in module.modules()],
            [(p.requires_grad, p.grad) for p in module.parameters()],
            str(module.graph),
            [b.clone() for b in module.buffers()],
        )

    before = state()
    maps(file, "auto", "relu")
    after = state()
    assert after[:3] == before[:3]
    torch.testing.assert_close(after[3], before[3], rtol=0, atol=0)
    (relu,) = [layer for layer in layers_of(file) if layer.name == "relu"]
    with pytest.raises(ZeroDivisionError), file.network.prepared():
        file.logits(torch.zeros(1, 3, 64, 64), {relu: lambda _: 1 / 0})
    assert state()[:3] == before[:3]


@pytest.mark.parametrize(("kind", "rows"), [(OneAtATime, 1), (Mixing, 1), (OneAtATime, 3)])
def test_a_trace_that_holds_its_batch_size_is_run_in_pieces(kind: Any, rows: int, tmp_path) -> None:
    model = small(kind)
    path = saved(traced(model, rows), tmp_path / "one.pt")
    network = open_script(path, CPU)
    file = replace(small(), network=network)
    with pytest.warns(ModelWarning, match=f"^one.pt was traced for batches of {rows}: ") as said:
        got = maps(file, "more", "relu", target="top:2")
    assert len(said) == 1
    assert_same_maps(got, maps(small(), "more", "relu", target="top:2"))


def test_networks_that_take_any_number_of_pictures_are_not_run_in_pieces() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        file = replace(small(), network=ScriptNetwork(traced(small()), CPU))
        got = maps(file, "auto")
    assert_same_maps(got, maps(small(), "auto"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_file_of_half_precision_is_fed_what_it_takes(dtype: torch.dtype, frozen: bool) -> None:
    model = small()
    expected = maps(model, "more")
    script = torch.jit.script(model.network.module.to(dtype))
    script = torch.jit.freeze(script) if frozen else script
    file = replace(model, network=ScriptNetwork(script, CPU))
    for one, other in zip(maps(file, "auto"), expected, strict=True):
        true = other.cams[0].cam
        assert np.abs(one.cams[0].cam - true).max() < 0.05 * np.abs(true).max()


def test_inputs_with_defaults_keep_them_and_named_answers_are_found() -> None:
    for kind, factor in ((Scaled, 2.0), (Keyed, 1.0)):
        model = small(kind)
        file = replace(model, network=ScriptNetwork(scripted(model), CPU))
        x = noise_batch(model)
        plain = small()
        torch.testing.assert_close(file.logits(x), factor * plain.logits(x))
    chosen = replace(model, network=ScriptNetwork(scripted(model), CPU, "features"))
    assert chosen.logits(x).shape == (2, 8)


def noise_batch(model: LoadedModel) -> Tensor:
    return model.inputs([picture.view for picture in noise_pictures(model, 2)])


@pytest.mark.parametrize("make", [traced, scripted])
def test_parameters_are_found_by_name_where_freezing_has_not_hidden_them(make: Any) -> None:
    model = small()
    file = ScriptNetwork(make(model), CPU)
    torch.testing.assert_close(file.classifier(), model.network.classifier())
    torch.testing.assert_close(file.biases(), model.network.biases())
    frozen = ScriptNetwork(torch.jit.freeze(make(model)), CPU)
    assert frozen.classifier() is None
    with pytest.raises(UsageError, match=r"^fullgrad needs the biases of modules, which freezing"):
        frozen.biases()


@pytest.mark.parametrize("method", ["fullgrad", "gradient_x_input", "scorecam", "cam"])
def test_methods_that_ask_for_more_than_a_gradient_are_served(method: str) -> None:
    model = small()
    file = replace(model, network=ScriptNetwork(traced(model), CPU))

    def cams(model: LoadedModel) -> list[Any]:
        engine = Engine(model, methods=[method], layers=["more"], batch_size=2)
        with engine.prepared():
            return [one.cams[0].cam for one in engine.explain(noise_pictures(model, 2))]

    for got, true in zip(cams(file), cams(model), strict=True):
        np.testing.assert_allclose(got, true, rtol=0, atol=1e-5 * np.abs(true).max())


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("guided_backprop", r"^small shows no ReLU from inside its graph, which guided backpr"),
        ("legrad", r"^legrad needs a transformer whose blocks attend"),
    ],
)
def test_methods_that_look_into_python_modules_say_what_they_need(method, sentence) -> None:
    file = replace(small(), network=ScriptNetwork(traced(small()), CPU))
    with pytest.raises(UsageError, match=sentence):
        Engine(file, methods=[method], batch_size=2)


@pytest.mark.parametrize("first", [True, False])
def test_encoders_traced_without_gradients_get_them_back(first: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 32, 16, 16)
            self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=first)
            self.fc = nn.Linear(32, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(dim=1))

    torch.manual_seed(0)
    model = as_model(live_in(Encoder()), CLASSES)
    with torch.no_grad():
        module = traced(model)
    assert "aten::_transformer_encoder_layer_fwd" in str(module.inlined_graph)
    file = replace(model, network=ScriptNetwork(module, CPU))
    assert_same_maps(maps(file, "patch"), maps(model, "patch"))


def test_a_transformer_traced_without_gradients_is_explained_before_its_last_attention() -> None:
    module = script("vit", "traced")
    assert "aten::_native_multi_head_attention" in str(module.inlined_graph)
    file = replace(eager("vit"), network=ScriptNetwork(module, CPU))
    layers = layers_of(file)
    assert default_layer(file, layers).name == "encoder.layers.encoder_layer_2.ln_1"


def test_an_operator_without_a_derivative_is_an_error_that_names_it() -> None:
    class Underived(Small):
        def forward(self, x: Tensor) -> Tensor:
            features = self.more(self.relu(self.conv(x)))
            return self.fc((features * torch.heaviside(features, features)).mean(dim=(2, 3)))

    module = traced(as_model(Underived().eval(), CLASSES))
    file = replace(small(), network=ScriptNetwork(module, CPU))
    with pytest.raises(ModelError, match=r"^aten::heaviside in the model has no derivative; "):
        maps(file, "auto")


def test_a_file_that_needs_more_than_a_picture_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^the model needs inputs other than one image .*\(age\)"):
        ScriptNetwork(torch.jit.script(TwoInputs()), CPU)


def test_a_file_saved_in_training_mode_is_said_to_be() -> None:
    model = small()
    model.network.module.train()
    module = torch.jit.trace(model.network.module, torch.zeros(2, 3, 64, 64), check_trace=False)
    with pytest.warns(ModelWarning, match=r"^the model was saved in training mode"):
        ScriptNetwork(module, CPU)


def test_a_quantized_file_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.ao.quantization.quantize_dynamic(small().network.module, {nn.Linear})
        script = torch.jit.trace(module, torch.zeros(1, 3, 64, 64))
    with pytest.raises(ModelError, match=r"^the model is quantized: .*; export the float model$"):
        ScriptNetwork(script, CPU)


def test_devices_that_a_trace_holds_are_replaced() -> None:
    class Placed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)) + torch.ones(3, device=torch.device("cpu"))

    network = ScriptNetwork(
        torch.jit.trace(Placed(), torch.zeros(1, 3, 8, 8)), torch.device("meta")
    )
    held = network._graph._graph.findAllNodes("prim::Constant", True)
    devices = [n.s("value") for n in held if n.output().type().kind() == "DeviceObjType"]
    assert set(devices) == {"meta"}


def test_code_that_writes_files_is_refused_unless_trusted(tmp_path: Path) -> None:
    path = saved(torch.jit.script(Writing()), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"code that can write files \(save in .*--trust-model$"):
        open_script(path, CPU)
    assert isinstance(open_script(path, CPU, trusted=True), ScriptNetwork)


def test_the_size_of_a_trace_and_extra_files_are_read_without_loading(tmp_path: Path) -> None:
    module = torch.jit.trace(small().network.module, torch.zeros(1, 3, 48, 64))
    path = saved(module, tmp_path / "x.pt", _extra_files={"labels.txt": "cat\ndog"})
    assert script_facts(path) == ((64, 48), {"labels.txt": b"cat\ndog"})
    path = saved(scripted(small()), tmp_path / "y.pt")
    assert script_facts(path) == (None, {})


def test_what_is_no_torchscript_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"is no TorchScript file .*; if it was .* git lfs pull$"):
        open_script(path, CPU)
    with pytest.raises(ModelError, match="is no TorchScript file that can be read"):
        open_script(tmp_path / "absent.pt", CPU)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"is no TorchScript file that torch can read"):
        open_script(path, CPU)


def test_an_operator_that_is_not_there_is_named(tmp_path: Path) -> None:
    import zipfile

    whole = saved(scripted(small()), tmp_path / "whole.pt")
    path = tmp_path / "custom.pt"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".py"):
                content = content.replace(b"torch.mean(", b"ops.torchvision.deform_conv2d(")
            target.writestr(name.replace("whole/", "custom/"), content)
    with pytest.raises(ModelError, match=r"needs the operator torchvision::deform_conv2d, which"):
        open_script(path, CPU)


def test_an_error_inside_the_network_is_one_line() -> None:
    file = replace(small(), network=ScriptNetwork(traced(small()), CPU))
    with pytest.raises(ModelError, match=r"cannot be run on pictures of 4x4 \(Calculated padded"):
        layers_of(replace(file, preprocessing=replace(file.preprocessing, size=(4, 4))))
