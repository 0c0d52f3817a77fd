"""TorchScript files explain themselves as the modules they were made from do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camcli.engine import Engine
from camcli.errors import ModelError, ModelWarning, UsageError
from camcli.models.files import extra_files
from camcli.models.inspection import layers_of
from camcli.models.loaded import LoadedModel
from camcli.models.script_file import traced_shape
from camcli.models.torchscript import ScriptNetwork, open_script
from tests.conftest import as_model, live_in, noise_pictures
from tests.models.files import (
    CLASSES,
    CPU,
    Keyed,
    Small,
    TwoInputs,
    assert_same_maps,
    in_code,
    maps,
    opened,
    rewritten,
    saved,
    scripted,
    small,
    traced,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class OneAtATime(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)).view(int(x.shape[0]), 8))


class Mixing(Small):
    """Traced with one picture, it takes any number and averages over all of them."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).reshape(int(x.shape[0]), -1, 8, 64).mean(dim=(1, 3))
        return self.fc(pooled).expand(x.shape[0], CLASSES)


class Scaled(Small):
    def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
        return factor * self.fc(self.features(x).mean(dim=(2, 3)))


class Writing(Small):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "written")
        return self.fc(self.features(x).mean(dim=(2, 3)))


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
        got = maps(file, "more", "relu")
    assert len(said) == 1
    assert_same_maps(got, maps(small(), "more", "relu"))


def test_networks_that_take_any_number_of_pictures_are_not_run_in_pieces() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        file = replace(small(), network=ScriptNetwork(traced(small()), CPU))
        got = maps(file, "auto")
    assert_same_maps(got, maps(small(), "auto"))


def test_inputs_with_defaults_keep_them_and_an_answer_can_be_named() -> None:
    model = small(Scaled)
    file = replace(model, network=ScriptNetwork(scripted(model), CPU))
    x = noise_batch(model)
    torch.testing.assert_close(file.logits(x), 2 * small().logits(x))
    model = small(Keyed)
    chosen = replace(model, network=ScriptNetwork(scripted(model), CPU, "features"))
    assert chosen.logits(x).shape == (2, 8)


class Branching(Small):
    """What runs depends on the picture, and how often on its size."""

    def __init__(self) -> None:
        super().__init__()
        self.bright = nn.Conv2d(8, 8, 1)
        self.dark = nn.Conv2d(8, 8, 1)
        self.steps = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)])

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        features = self.bright(features) if x.mean() > -9 else self.dark(features)
        for _ in range(x.shape[2] // 32):
            for step in self.steps:
                features = step(features)
        return self.fc(features.mean(dim=(2, 3)))


def test_layers_in_branches_and_loops_are_explained_where_they_ran(tmp_path: Path) -> None:
    model = small(Branching)
    file = opened(model, scripted(model), tmp_path / "branching.pt")
    assert layers_of(file) == layers_of(model)
    names = ("relu:0", "bright", "steps.0:0", "steps.1:0", "steps.0", "steps.1")
    assert_same_maps(maps(file, *names), maps(model, *names))
    with pytest.raises(UsageError, match=r"^'dark' of branching.pt .*: it did not run, .*layers "):
        maps(file, "dark")


def noise_batch(model: LoadedModel) -> Tensor:
    return model.inputs([picture.view for picture in noise_pictures(model, 2)])


@pytest.mark.parametrize("make", [traced, scripted])
def test_freezing_hides_what_parameters_belong_to(make: Any) -> None:
    file = ScriptNetwork(torch.jit.freeze(make(small())), CPU)
    assert file.classifier() is None
    with pytest.raises(UsageError, match=r"^fullgrad needs the biases of modules, which freezing"):
        file.biases()


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


class Placed(Small):
    """A trace holds the devices: of a tensor that is made, and of one that is moved."""

    def forward(self, x: Tensor) -> Tensor:
        offset = torch.zeros(8, 1, 1, device=x.device) + torch.ones(1).to(x.device)
        return self.fc((self.features(x) + offset).mean(dim=(2, 3)))


class ToCuda(Small):
    def forward(self, x: Tensor) -> Tensor:
        offset = torch.zeros(8, 1, 1, device="cuda") + torch.ones(1).to("cuda:1")
        return self.fc((self.features(x.cuda()) + offset).mean(dim=(2, 3)))


def test_a_file_that_holds_a_gpu_is_explained_without_it(tmp_path: Path) -> None:
    expected = maps(small(Placed), "auto", "relu:0")
    on_cpu = saved(traced(small(Placed)), tmp_path / "cpu.pt")
    traced_on_gpu = rewritten(on_cpu, in_code('torch.device("cpu")', 'torch.device("cuda:0")'))
    assert b'torch.device("cuda:0")' in traced_on_gpu.read_bytes()
    for path in (traced_on_gpu, saved(scripted(small(ToCuda)), tmp_path / "scripted.pt")):
        file = replace(small(), network=open_script(path, CPU))
        assert_same_maps(maps(file, "auto", "relu:0"), expected)


def test_code_that_writes_files_is_refused_unless_trusted(tmp_path: Path) -> None:
    path = saved(torch.jit.script(Writing()), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"code that can write files \(save in .*--trust-model$"):
        open_script(path, CPU)
    assert isinstance(open_script(path, CPU, trusted=True), ScriptNetwork)


def test_the_shape_of_a_trace_and_extra_files_are_read_without_loading(tmp_path: Path) -> None:
    module = torch.jit.trace(small().network.module, torch.zeros(1, 3, 48, 64))
    path = saved(module, tmp_path / "x.pt", _extra_files={"labels.txt": "cat\ndog"})
    assert traced_shape(path) == (1, 3, 48, 64)
    assert extra_files(str(path)) == {"labels.txt": b"cat\ndog"}
    path = saved(scripted(small()), tmp_path / "y.pt")
    assert traced_shape(path) is None
    assert extra_files(str(path)) == {}


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
    whole = saved(scripted(small()), tmp_path / "whole.pt")
    path = rewritten(whole, in_code("torch.mean(", "ops.torchvision.deform_conv2d("))
    with pytest.raises(ModelError, match=r"needs the operator torchvision::deform_conv2d, which"):
        open_script(path, CPU)


def test_an_error_inside_the_network_is_one_line() -> None:
    file = replace(small(), network=ScriptNetwork(traced(small()), CPU))
    with pytest.raises(ModelError, match=r"cannot be run on pictures of 4x4 \(Calculated padded"):
        layers_of(replace(file, preprocessing=replace(file.preprocessing, size=(4, 4))))
