"""What the sanity check says of methods that follow the network, and of one that does not."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from camcli.engine import Engine
from camcli.errors import UsageError
from camcli.evaluation.randomisation import Compared, Sanity, forgetting, sanity, stages
from camcli.models.exported import ExportedNetwork
from camcli.models.loaded import LoadedModel
from camcli.models.torchscript import ScriptNetwork
from tests.conftest import as_model, live_in, noise_pictures

SIZE = 32


def network() -> nn.Module:
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU())  # fmt: skip
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6))
    return live_in(nn.Sequential(*body, *pooled), SIZE)


def model_of(kind: str) -> LoadedModel:
    module = network()
    eager = as_model(module, 6, SIZE)
    x = torch.zeros(2, 3, SIZE, SIZE)
    if kind == "eager":
        return eager
    if kind == "script":
        script = torch.jit.load(_bytes(torch.jit.trace(module, x)))
        return replace(eager, network=ScriptNetwork(script, torch.device("cpu"), traced_batch=2))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    return replace(eager, network=ExportedNetwork(program, torch.device("cpu")))


def _bytes(script: torch.jit.ScriptModule) -> io.BytesIO:
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    return file


def state(model: LoadedModel) -> dict[str, torch.Tensor]:
    module = model.network.module  # type: ignore[attr-defined]
    return {
        name: tensor.detach().clone()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }


def changed(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in now if not torch.equal(now[name], before[name])}


@pytest.mark.parametrize("kind", ["eager", "script", "exported"])
def test_layers_are_forgotten_from_the_output_on_and_put_back_to_the_bit(kind):
    model = model_of(kind)
    before = state(model)
    groups = stages(model, 3)
    assert groups == [["7"], ["3"], ["1", "0"]] or groups == [["7"], ["3", "1"], ["0"]]

    def broken_off() -> None:
        with forgetting(model, 0) as forget:
            forget(groups[0])
            assert changed(before, state(model)) == {"7"}
            for name, tensor in state(model).items():
                own, old = (t.float().flatten().sort().values for t in (tensor, before[name]))
                torch.testing.assert_close(own, old)
            forget([name for group in groups[1:] for name in group])
            assert changed(before, state(model)) == {"7", "3", "1", "0"}
            raise KeyError("broken off")

    with pytest.raises(KeyError, match="broken off"):
        broken_off()
    after = state(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_same_seed_forgets_the_same():
    found = []
    for seed in (0, 0, 1):
        model = model_of("eager")
        with forgetting(model, seed) as forget:
            forget(["0"])
            found.append(state(model)["0.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_frozen_file_is_one_sentence():
    frozen = torch.jit.freeze(torch.jit.trace(network(), torch.zeros(2, 3, SIZE, SIZE)))
    script = torch.jit.load(_bytes(frozen))
    own = ScriptNetwork(script, torch.device("cpu"), traced_batch=2)
    model = replace(as_model(network(), 6, SIZE), network=own)
    with pytest.raises(UsageError, match=r"the parameters of small cannot be reached"):
        stages(model)


def test_a_method_that_looks_at_the_activation_alone_does_not_see_the_class():
    model = as_model(network(), 6, SIZE)
    engine = Engine(model, methods=["hirescam", "eigencam", "random"], batch_size=4)
    choose, before = engine.choose, state(model)
    pictures = noise_pictures(model, 3)
    found = {one.method: one for one in sanity(engine, pictures)}
    assert all(torch.equal(state(model)[name], before[name]) for name in before)
    assert engine.choose is choose
    eigencam = found["eigencam"]
    assert eigencam.other_class.rank_correlation == pytest.approx(1.0)
    assert eigencam.other_class.structural_similarity == pytest.approx(1.0)
    assert eigencam.cascade[0].rank_correlation == pytest.approx(1.0)  # the output layer alone
    assert not eigencam.passes
    # Seeded by the picture, so that it is the same whatever becomes of the network.
    assert found["random"].cascade[-1].rank_correlation == pytest.approx(1.0)
    assert not found["random"].passes
    assert found["hirescam"].other_class.rank_correlation < 0.5
    assert found["hirescam"].pictures == 3
    again = {one.method: one for one in sanity(engine, pictures)}
    assert again == found


def test_the_maps_that_are_compared_are_of_the_class_predicted_before():
    model = as_model(network(), 6, SIZE)
    engine = Engine(model, methods=["hirescam"], batch_size=2)
    pictures = noise_pictures(model, 2)
    (found,) = sanity(engine, pictures, seed=5)
    with engine.prepared():
        first = engine.explain(pictures)
    own = {one.ref: one.cams[0].target for one in first}
    with forgetting(model, 5) as forget:
        for names in stages(model):
            forget(names)
        engine.choose = lambda ref, ranked: (own[ref],)
        with engine.prepared():
            last = engine.explain(pictures)
    expected = [
        np.corrcoef(*(_order(one.cams[0].cam) for one in pair))[0, 1]
        for pair in zip(first, last, strict=True)
    ]
    assert found.cascade[-1].rank_correlation == pytest.approx(np.mean(expected))


def _order(cam: np.ndarray) -> np.ndarray:
    return cam.ravel().argsort().argsort()  # no two values of these maps are the same


def test_the_verdict_is_its_rule_and_says_so():
    def of(other: float, first: float, last: float) -> Sanity:
        steps = (Compared(first, 0.9), Compared(0.9, 0.9), Compared(last, 0.0))
        return Sanity("layercam", "bn2", 8, Compared(other, 0.0), steps, None)

    assert of(0.49, -0.9, 0.49).passes
    assert not of(0.5, 0.0, 0.0).passes
    assert not of(0.0, 0.5, 0.0).passes
    assert not of(0.0, 0.0, 0.5).passes
    assert of(0.1, 0.8, -0.2).sentence == (
        "layercam fails the sanity check: maps of another class correlate at +0.10, with a "
        "randomised output layer at +0.80, with every layer randomised at -0.20."
    )


@pytest.mark.slow
def test_on_the_built_in_model_guided_backpropagation_fails_and_hirescam_passes(photos):
    from camcli.images.decode import DecodeSettings, decode
    from camcli.models.opening import open_model
    from camcli.records import Decoded, ImageRef

    model = open_model("efficientnet_lite0")
    settings = DecodeSettings(model.preprocessing, None, 10**8)
    files = sorted(photos.glob("*.JPEG"))[::13]
    pictures = [decode(ImageRef(str(file), file.name), settings) for file in files]
    engine = Engine(model, methods=["hirescam", "guided_backprop"], batch_size=8)
    usable = [picture for picture in pictures if isinstance(picture, Decoded)]
    hirescam, guided = sanity(engine, usable)
    assert hirescam.passes
    assert not guided.passes
