"""torch.export files explain themselves as the modules they were made from do."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torchvision import models
from typer.testing import CliRunner

from camcli.cam.layers import find_layer
from camcli.cli.app import app
from camcli.engine import Engine
from camcli.errors import ModelError, ModelWarning
from camcli.models.exported import ExportedNetwork, open_exported
from camcli.models.inspection import default_layer, layers_of
from camcli.models.loaded import LoadedModel
from camcli.records import Explanation
from tests.conftest import as_model, live_in, noise_pictures

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CLASSES = 10
CPU = torch.device("cpu")
MIDDLE = {
    "resnet18": "layer3",
    "mobilenet_v3_small": "features.8",
    "densenet121": "features.denseblock2",
    "squeezenet1_1": "features.7",
    "convnext_tiny": "features.5.4",  # the stage's last map sums to nothing: a LayerNorm follows
    "swin_t": "features.5",
    "vit": "encoder.layers.encoder_layer_1.ln_1",
}
# Attention returns a tuple, of which a graph shows the one tensor that is used.
HIDDEN = {"vit": {"MultiheadAttention"}}
EVERYDAY = {("resnet18", "dynamic"), ("resnet18", "static decomposed"),
            ("mobilenet_v3_small", "static"), ("squeezenet1_1", "static"),
            ("vit", "dynamic"), ("vit", "static decomposed")}  # fmt: skip
FORMS = ("dynamic", "static", "dynamic decomposed", "static decomposed")


def built(name: str) -> nn.Module:
    if name == "vit":
        return models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=48, mlp_dim=96,
            num_classes=CLASSES,
        )  # fmt: skip
    return models.get_model(name, num_classes=CLASSES)


@cache
def eager(name: str) -> LoadedModel:
    torch.manual_seed(0)
    return as_model(live_in(built(name)), CLASSES)


def exported(model: LoadedModel, form: str = "dynamic", rows: int = 2) -> ExportedProgram:
    """The program of a model, made with pictures of the model's size."""
    dynamic = ({0: Dim("pictures")},) if "dynamic" in form else None
    width, height = model.preprocessing.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = export(
            model.network.module, (torch.zeros(rows, 3, height, width),), dynamic_shapes=dynamic
        )
        return program.run_decompositions() if "decomposed" in form else program


def opened(model: LoadedModel, path: Path, form: str = "dynamic", **options: Any) -> LoadedModel:
    """A LoadedModel around the file of a program made from a model."""
    torch.export.save(exported(model, form), path)
    return replace(model, name=path.name, network=open_exported(path, CPU, **options))


def maps(
    model: LoadedModel, *layers: str, methods: tuple[str, ...] = ("hirescam", "gradcam++")
) -> list[Explanation]:
    engine = Engine(model, methods=methods, layers=layers, target="top:3", batch_size=2)
    with engine.prepared():
        return engine.explain(noise_pictures(model, 2))


def assert_same_maps(
    got: list[Explanation], expected: list[Explanation], near: float = 1e-5
) -> None:
    for one, other in zip(got, expected, strict=True):
        assert len(one.cams) == len(other.cams) > 0
        for own, true in zip(one.cams, other.cams, strict=True):
            assert own.target == true.target
            scale = float(np.abs(true.cam).max())
            assert scale > 0
            np.testing.assert_allclose(own.cam, true.cam, rtol=0, atol=near * scale)
            for figure in ("completeness_error", "location_error", "baseline", "outside_grid"):
                mine, theirs = getattr(own, figure), getattr(true, figure)
                assert mine == (
                    None if theirs is None else pytest.approx(theirs, rel=1e-4, abs=1e-4)
                )


def matrix() -> Iterator[Any]:
    for name in MIDDLE:
        for form in FORMS:
            marks = () if (name, form) in EVERYDAY else (pytest.mark.slow,)
            yield pytest.param(name, form, id=f"{name} {form}", marks=marks)


@pytest.mark.parametrize(("name", "form"), list(matrix()))
def test_a_file_explains_itself_as_its_module_does(name: str, form: str, tmp_path: Path) -> None:
    model = eager(name)
    file = opened(model, tmp_path / f"{name}.pt2", form)
    true, own = layers_of(model), layers_of(file)
    names = {layer.name for layer in true}
    assert [layer for layer in own if layer.name in names] == true
    assert {layer.type for layer in own if layer.name not in names} <= HIDDEN.get(name, set())
    default, middle = default_layer(model, true), find_layer(true, MIDDLE[name], name)
    assert default_layer(file, own) == default
    # Before a LayerNorm what the channels add nearly cancels, and decomposed programs lay their
    # tensors out otherwise: the float32 sum over channels then rounds in another order.
    near = 5e-5 if name == "convnext_tiny" and "decomposed" in form else 1e-5
    assert_same_maps(
        maps(file, default.name, middle.name), maps(model, default.name, middle.name), near
    )


class Small(nn.Module):
    """Two maps and a linear head; one module is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.relu = nn.ReLU(inplace=True)
        self.more = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Dropout()
        )
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.relu(self.more(self.relu(self.conv(x))) - 0.1).mean(dim=(2, 3)))


class Fixed(Small):
    """Exported, it takes nothing but the number of pictures that it was made with."""

    def forward(self, x: Tensor) -> Tensor:
        count = int(x.shape[0])
        features = self.relu(self.more(self.relu(self.conv(x))) - 0.1)
        return self.fc(features.view(count, 8, -1).mean(dim=2))


class Keyed(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.relu(self.more(self.relu(self.conv(x))) - 0.1).mean(dim=(2, 3))
        return {"features": features, "logits": self.fc(features)}


class TwoInputs(Small):
    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return super().forward(x) + age


def small(kind: type[nn.Module] = Small) -> LoadedModel:
    torch.manual_seed(0)
    module = kind()
    model = as_model(module, CLASSES)
    module.forward = Small.forward.__get__(module)  # to calibrate
    live_in(module)
    del module.__dict__["forward"]
    return model


def network(model: LoadedModel, form: str = "dynamic", **options: Any) -> LoadedModel:
    return replace(model, network=ExportedNetwork(exported(model, form), CPU, **options))


@pytest.mark.parametrize("form", ["dynamic", "dynamic decomposed"])
@pytest.mark.parametrize(
    "method", ["fullgrad", "gradient_x_input", "guided_backprop", "deconvnet", "scorecam", "cam"]
)
def test_methods_that_ask_for_more_than_a_gradient_are_served(form: str, method: str) -> None:
    model = small()
    layer = "relu" if method == "cam" else "more"
    assert_same_maps(
        maps(network(model, form), layer, methods=(method,)), maps(model, layer, methods=(method,))
    )


@pytest.mark.parametrize("form", ["dynamic", "static decomposed"])
def test_parameters_are_found_by_name(form: str) -> None:
    model = small()
    file = network(model, form).network
    torch.testing.assert_close(file.classifier(), model.network.classifier())
    torch.testing.assert_close(file.biases(), model.network.biases())


def test_every_call_of_a_module_is_a_layer() -> None:
    file = network(small())
    names = [layer.name for layer in layers_of(file)]
    assert "relu:0" in names
    assert names[-1] == "relu"
    assert_same_maps(maps(file, "relu:0", "relu"), maps(small(), "relu:0", "relu"))


def test_explaining_leaves_the_program_as_it_was() -> None:
    file = network(small())
    module = file.network.module
    next(module.parameters()).requires_grad_(False)

    def state() -> Any:
        return (
            [(p.requires_grad, p.grad) for p in module.parameters()],
            [len(node.users) for node in module.graph.nodes],
            [buffer.tolist() for buffer in module.buffers()],
        )

    before = state()
    maps(file, "auto", "relu:0")
    assert state() == before
    (layer,) = [layer for layer in layers_of(file) if layer.name == "more"]
    with pytest.raises(ZeroDivisionError), file.network.prepared():
        file.logits(torch.zeros(1, 3, 64, 64), {layer: lambda _: 1 / 0})
    assert state() == before
    assert file.network._listener is None


@pytest.mark.parametrize("rows", [1, 3])
def test_a_program_of_a_fixed_batch_is_run_in_pieces(rows: int) -> None:
    model = small(Fixed)
    file = replace(model, network=ExportedNetwork(exported(model, "static", rows), CPU))
    with pytest.warns(ModelWarning, match=f"was exported for batches of {rows}: ") as said:
        got = maps(file, "more", "relu")
    assert len(said) == 1
    assert_same_maps(got, maps(small(), "more", "relu"))


def test_a_static_program_that_takes_any_number_is_not_run_in_pieces() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        got = maps(network(small(), "static"), "auto")
    assert_same_maps(got, maps(small(), "auto"))


def test_another_size_of_pictures_is_refused() -> None:
    file = network(small())
    with pytest.raises(ModelError, match=r"48x48 \(it was exported for pictures of 64x64\)"):
        layers_of(replace(file, preprocessing=replace(file.preprocessing, size=(48, 48))))


def test_the_logits_are_found_among_several_answers() -> None:
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(small(Keyed)).logits(x), small().logits(x))
    assert network(small(Keyed), output="features").logits(x).shape == (2, 8)


def test_a_program_that_needs_more_than_a_picture_is_refused() -> None:
    program = export(small(TwoInputs).network.module, (torch.zeros(2, 3, 64, 64), torch.ones(1)))
    with pytest.raises(ModelError, match=r"^the model needs inputs other than one .* \(age\); "):
        ExportedNetwork(program, CPU)


def test_a_program_in_training_mode_is_refused() -> None:
    model = small()
    model.network.module.train().more[1].momentum = 0.1
    with pytest.raises(ModelError, match=r"^the model was exported in training mode, "):
        network(model)


Edit = Callable[[str, bytes], bytes]


def rewritten(path: Path, edit: Edit, **added: bytes) -> Path:
    """A copy of a file whose members are edited, and to which some are added."""
    target = path.with_name(f"bad-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, edit(name, source.read(name)))
        root = source.namelist()[0].partition("/")[0]
        for name, content in added.items():
            copy.writestr(f"{root}/{name.replace('__', '/')}", content)
    return target


def in_graph(old: str, new: str) -> Edit:
    def edit(name: str, content: bytes) -> bytes:
        if "/models/" not in name:
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return edit


class Touching:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.export.save(exported(small()), tmp_path / "small.pt2")
    return tmp_path / "small.pt2"


HARM = "__import__('os').mkdir('{}')"


def test_a_harmful_expression_is_refused_without_being_evaluated(good, tmp_path) -> None:
    mark = tmp_path / "evaluated"
    content = json.dumps(HARM.format(mark))[1:-1]
    bad = rewritten(good, in_graph("Symbol('s77', positive=True, integer=True)", content))
    with pytest.raises(ModelError, match=r"holds what may run as code .*--trust-model$") as caught:
        open_exported(bad, CPU)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_exported(bad, CPU, trusted=True)
    assert mark.exists()  # so that the refusal is known to have prevented it


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.ops.aten.mean.dim", "torch.os.system"),
        ("torch.ops.aten.mean.dim", "torch.ops.aten.from_file.default"),
        ('"name": "x"', '"name": "x=print(1)"'),
        ("builtins.tuple", "collections.defaultdict(x)"),
    ],
)
def test_names_that_torch_would_call_or_compile_are_refused(good, old: str, new: str) -> None:
    with pytest.raises(ModelError, match="holds what may run as code"):
        open_exported(rewritten(good, in_graph(old, new)), CPU)


def test_constants_that_are_objects_are_refused_before_they_are_unpickled(good, tmp_path) -> None:
    mark = tmp_path / "unpickled"
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
             "tensor_meta": None}  # fmt: skip
    config = json.dumps({"config": {"harm": entry}}).encode()
    bad = rewritten(
        good,
        lambda name, content: config if name.endswith("constants_config.json") else content,
        data__constants__opaque_obj_0=pickle.dumps(Touching(mark)),
    )
    with pytest.raises(ModelError, match=r"may run as code \('opaque_obj_0'\)"):
        open_exported(bad, CPU)
    assert not mark.exists()


def test_example_inputs_are_loaded_as_data_only(good, tmp_path) -> None:
    mark = tmp_path / "unpickled"
    torch.save((Touching(mark),), tmp_path / "harm.pt")
    harm = (tmp_path / "harm.pt").read_bytes()
    bad = rewritten(good, lambda name, content: harm if "/sample_inputs/" in name else content)
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_exported(bad, CPU)
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_explain_takes_a_file_with_its_labels_and_preprocessing(picture, tmp_path) -> None:
    names = [f"class {k}" for k in range(CLASSES)]
    half = [0.5, 0.5, 0.5]
    torch.export.save(
        exported(small()),
        tmp_path / "small.pt2",
        extra_files={
            "labels.txt": "\n".join(names),
            "preprocessing.json": json.dumps({"mean": half, "std": half}),
        },
    )
    picture("in/a.png")
    done = CliRunner().invoke(
        app,
        ["explain", str(tmp_path / "in"), "--model", str(tmp_path / "small.pt2"),
         "--device", "cpu", "--batch-size", "2", "-o", str(tmp_path / "out")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out/json/a.png.json").read_text())
    assert record["predictions"][0]["label"] in names
    assert record["explanations"][0]["layer"] == "relu"
    assert record["explanations"][0]["faithful"] is True
