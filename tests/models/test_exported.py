"""torch.export files explain themselves as the modules they were made from do."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import export
from typer.testing import CliRunner

from camcli.cli.app import app
from camcli.errors import ModelError, ModelWarning, UsageError
from camcli.models.exported import ExportedNetwork, open_exported
from camcli.models.inspection import layers_of
from camcli.models.loaded import LoadedModel
from tests.models.files import (
    CLASSES,
    CPU,
    Keyed,
    Small,
    TwoInputs,
    assert_same_maps,
    exported,
    in_code,
    maps,
    opened,
    rewritten,
    saved,
    small,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Fixed(Small):
    """Exported, it takes nothing but the number of pictures that it was made with."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).view(int(x.shape[0]), 8, -1).mean(dim=2))


class Bright(Small):
    def __init__(self) -> None:
        super().__init__()
        self.bright = nn.Conv2d(8, 8, 1)
        self.dark = nn.Conv2d(8, 8, 1)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.bright(self.features(x))).mean(dim=(2, 3)))


class Branching(Bright):
    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        chosen = torch.cond(x.mean() > -9, self.bright.forward, self.dark.forward, (features,))
        return self.fc(self.last(chosen).mean(dim=(2, 3)))


def network(model: LoadedModel, form: str = "dynamic", **options: Any) -> LoadedModel:
    return replace(model, network=ExportedNetwork(exported(model, form), CPU, **options))


@pytest.mark.parametrize("form", ["dynamic", "dynamic decomposed"])
@pytest.mark.parametrize("method", ["fullgrad", "guided_backprop", "deconvnet"])
def test_biases_and_relus_are_found_among_the_operators(form: str, method: str) -> None:
    model = small()
    assert_same_maps(
        maps(network(model, form), "more", methods=(method,)),
        maps(model, "more", methods=(method,)),
    )


@pytest.mark.parametrize("form", ["dynamic", "static decomposed"])
def test_parameters_are_found_by_name(form: str) -> None:
    model = small()
    file = network(model, form).network
    torch.testing.assert_close(file.classifier(), model.network.classifier())
    torch.testing.assert_close(file.biases(), model.network.biases())


def test_a_branch_is_run_and_its_layers_are_said_to_be_hidden(tmp_path: Path) -> None:
    file = opened(small(Branching), exported(small(Branching)), tmp_path / "branching.pt2")
    plain = small(Bright)
    assert_same_maps(maps(file, "auto", "relu"), maps(plain, "last", "relu"))
    with pytest.raises(UsageError, match=r"^'dark' of branching.pt2 is not visible as a layer: "):
        maps(file, "dark")


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


def test_an_answer_can_be_named() -> None:
    x = torch.randn(2, 3, 64, 64)
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
    bad = rewritten(good, in_code("Symbol('s77', positive=True, integer=True)", content))
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
        open_exported(rewritten(good, in_code(old, new)), CPU)


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


def test_a_program_goes_to_the_device_with_what_it_makes_on_the_way(tmp_path: Path) -> None:
    class Placed(Small):
        def forward(self, x: Tensor) -> Tensor:
            offset = torch.zeros(8, 1, 1, device=x.device) + torch.ones(1).to("cpu")
            return self.fc((self.features(x) + offset).mean(dim=(2, 3)))

    path, meta = saved(exported(small(Placed)), tmp_path / "placed.pt2"), torch.device("meta")
    assert open_exported(path, meta).run(torch.zeros(2, 3, 64, 64, device=meta), {}).is_meta


def test_a_program_whose_weights_were_on_a_gpu_says_so_where_there_is_none(good: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch finds the GPU that the weights are for")

    def on_gpu(name: str, content: bytes) -> bytes:
        cpu, cuda = b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}'
        return content.replace(cpu, cuda) if name.endswith(".json") else content

    with pytest.raises(ModelError, match=r"was exported on a GPU, .*; export it on the CPU, or"):
        open_exported(rewritten(good, on_gpu), CPU)


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
