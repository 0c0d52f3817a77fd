"""Capture from ordinary modules: the right tensors, the true gradient, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import camcli
from camcli.cam.layers import Layer, find_layer
from camcli.engine import Engine
from camcli.errors import ModelError
from camcli.models.inspection import layers_of
from camcli.models.loaded import LoadedModel
from tests.conftest import as_model, live_in, noise_pictures

CLASSES = 10


def lived_in(builder: Callable[..., nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return live_in(builder(num_classes=CLASSES))


@pytest.fixture(scope="module")
def resnet() -> LoadedModel:
    return as_model(lived_in(models.resnet18), CLASSES)


def batch(model: LoadedModel, seed: int = 0) -> Tensor:
    return model.inputs([picture.view for picture in noise_pictures(model, 3, seed)])


def layers(model: LoadedModel, *names: str) -> list[Layer]:
    known = layers_of(model)
    return [find_layer(known, name, "model") for name in names]


def captured(model: LoadedModel, chosen: list[Layer]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, activations and gradients as the package takes them."""
    with model.network.prepared():
        logits, outputs = model.capture(batch(model), chosen)
        gradients = torch.autograd.grad(logits.max(dim=1).values.sum(), outputs)
    return logits.detach(), [output.detach() for output in outputs], list(gradients)


def by_autograd(
    model: LoadedModel, places: list[tuple[str, int]]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The same by the plain way: the whole graph recorded, the gradient retained at each place.

    `places` are (module, call). What follows a module may work in place, hence the clone.
    """
    module, kept = model.network.module, {}
    hooks = []
    for name, call in places:
        seen = iter(range(1000))

        def keep(_module: Any, _inputs: Any, output: Tensor, at=(name, call), seen=seen) -> Tensor:
            if next(seen) == at[1]:
                output.retain_grad()
                kept[at] = output
            return output.clone()

        hooks.append(module.get_submodule(name).register_forward_hook(keep))
    assert all(parameter.requires_grad for parameter in module.parameters())
    logits = module(batch(model).requires_grad_())
    logits.max(dim=1).values.sum().backward()
    for hook in hooks:
        hook.remove()
    module.zero_grad(set_to_none=True)
    tensors = [kept[place] for place in places]
    return logits.detach(), [t.detach() for t in tensors], [t.grad for t in tensors]


@pytest.mark.parametrize(
    "names",
    [
        ["layer4"],
        ["layer1"],
        ["layer3", "layer4"],
        ["layer4", "relu", "layer2", "layer4.0.conv1", "layer3.1.bn2"],
    ],
    ids=", ".join,
)
def test_the_gradient_of_the_head_alone_is_that_of_the_whole_network(resnet, names) -> None:
    logits, activations, gradients = captured(resnet, layers(resnet, *names))
    expected = by_autograd(resnet, [(name, 0) for name in names])
    torch.testing.assert_close(logits, expected[0])
    torch.testing.assert_close(activations, expected[1])
    for gradient, full in zip(gradients, expected[2], strict=True):
        assert full.any()
        torch.testing.assert_close(gradient, full, rtol=1e-5, atol=1e-6 * float(full.abs().max()))


def test_a_layer_captured_beside_others_is_what_it_is_alone(resnet) -> None:
    names = ["layer2", "layer3", "layer4"]
    _, together_a, together_g = captured(resnet, layers(resnet, *names))
    for name, activation, gradient in zip(names, together_a, together_g, strict=True):
        _, (alone_a,), (alone_g,) = captured(resnet, layers(resnet, name))
        assert torch.equal(activation, alone_a)
        assert torch.equal(gradient, alone_g)


def test_nothing_before_the_first_layer_is_recorded(resnet) -> None:
    with resnet.network.prepared():
        logits, (output,) = resnet.capture(batch(resnet), layers(resnet, "layer4"))
    assert output.is_leaf
    assert logits.requires_grad


def test_an_activation_in_place_after_the_layer_changes_neither_map_nor_gradient() -> None:
    """DenseNet: `features` ends in a batch norm, and `F.relu(inplace=True)` follows."""
    model = as_model(lived_in(models.densenet121), CLASSES)
    _, (activation,), (gradient,) = captured(model, layers(model, "features"))
    _, (own,), (full,) = by_autograd(model, [("features", 0)])
    assert (own < 0).any()  # what the module put out, before the ReLU
    torch.testing.assert_close(activation, own)
    assert full.any()
    torch.testing.assert_close(gradient, full, rtol=1e-5, atol=1e-6 * float(full.abs().max()))


def test_each_call_of_a_module_is_a_layer_of_its_own(resnet) -> None:
    first, last = layers(resnet, "layer4.1.relu:0", "layer4.1.relu")
    assert last.name == "layer4"
    _, activations, gradients = captured(resnet, [first, last])
    expected = by_autograd(resnet, [("layer4.1.relu", 0), ("layer4.1.relu", 1)])
    torch.testing.assert_close(activations, expected[1])
    torch.testing.assert_close(gradients, expected[2])
    block = resnet.network.module.layer4[1]
    with torch.no_grad():
        entering: list[Tensor] = []
        hook = block.register_forward_pre_hook(lambda _m, x: entering.append(x[0].clone()))
        resnet.network.module(batch(resnet))
        hook.remove()
        torch.testing.assert_close(activations[0], block.bn1(block.conv1(entering[0])).relu())


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything that a capture could leave behind."""
    return {
        "training": {name: m.training for name, m in module.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in module.named_parameters()},
        "grad": {name: p.grad for name, p in module.named_parameters()},
        "hooks": {
            name: [len(getattr(m, kind)) for kind in vars(m) if kind.endswith("_hooks")]
            for name, m in module.named_modules()
        },
        "buffers": {name: b.clone() for name, b in module.named_buffers()},
        "parameters": {name: p.detach().clone() for name, p in module.named_parameters()},
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    for kind in ("training", "requires_grad", "grad", "hooks"):
        assert after[kind] == before[kind], kind
    for kind in ("buffers", "parameters"):
        torch.testing.assert_close(after[kind], before[kind], rtol=0, atol=0)


def half_trained() -> nn.Module:
    """A network in the middle of fine-tuning: some of it frozen, some of it in train mode."""
    module = lived_in(models.resnet18)
    module.train()
    module.layer1.eval()
    for parameter in module.layer2.parameters():
        parameter.requires_grad_(False)
    module.layer3.register_forward_hook(lambda *_: None)  # the user's own
    return module


def test_explaining_leaves_the_network_as_it_was() -> None:
    module = half_trained()
    before = state_of(module)
    model = as_model(module, CLASSES)
    engine = Engine(model, layers=["auto", "layer2"], methods=["hirescam", "gradcam"], batch_size=2)
    with engine.prepared():
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
        engine.explain(noise_pictures(model, 2))
    assert_same_state(before, state_of(module))


@pytest.mark.parametrize("failing", ["layer4.1.bn2", "fc", "conv1"])
def test_an_exception_in_the_forward_pass_leaves_the_network_as_it_was(failing: str) -> None:
    module = half_trained()
    model = as_model(module, CLASSES)
    engine = Engine(model, layers=["layer2", "layer4"], batch_size=2)

    def fail(*_: object) -> None:
        raise RuntimeError("broken off")

    module.get_submodule(failing).register_forward_pre_hook(fail)
    before = state_of(module)
    with pytest.raises(RuntimeError, match="broken off"), engine.prepared():
        engine.explain(noise_pictures(model, 2))
    assert_same_state(before, state_of(module))
    with pytest.raises(ModelError, match=r"cannot be run on pictures of 64x64 \(broken off\)"):
        layers_of(model)
    assert_same_state(before, state_of(module))


def test_an_iterator_that_is_closed_early_leaves_the_network_as_it_was() -> None:
    module = half_trained()
    before = state_of(module)
    model = as_model(module, CLASSES)
    outcomes = camcli.explain([p.view for p in noise_pictures(model, 3)], model=model, batch_size=1)
    next(outcomes)
    outcomes.close()
    assert_same_state(before, state_of(module))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_explaining_works_where_gradients_are_switched_off(resnet: LoadedModel, mode) -> None:
    pictures = noise_pictures(resnet, 2)
    engine = Engine(resnet, batch_size=2)
    with engine.prepared():
        expected = engine.explain(pictures)
    with mode():
        inside = Engine(resnet, batch_size=2)
        with inside.prepared():
            got = inside.explain(pictures)
    for one, other in zip(got, expected, strict=True):
        assert one.cams[0].score == other.cams[0].score
        assert (one.cams[0].cam == other.cams[0].cam).all()
        assert one.cams[0].cam.any()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(x)).mean(dim=(2, 3)))


class Several(Small):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return logits, logits[:, :3]


def test_a_model_that_returns_no_logits_is_refused_in_one_sentence() -> None:
    needed = "one tensor of logits (N, classes) is needed"
    which = "any of which may be the logits; say which with --output-key NAME or --output-index K"
    for module, sentence in (
        (nn.Conv2d(3, 4, 3), f"the model returned (3, 4, 62, 62); {needed}"),
        (Several(), f"the model returned tuple (0 (3, 10), 1 (3, 3)), {which}"),
    ):
        model = as_model(module, CLASSES)
        with pytest.raises(ModelError) as caught:
            model.logits(batch(model))
        assert str(caught.value) == sentence


def test_a_layer_that_does_not_run_is_an_error_that_names_it() -> None:
    model = as_model(Small(), CLASSES)
    (relu,) = layers(model, "relu")
    model.network.module.forward = lambda x: x.mean(dim=(2, 3))
    with pytest.raises(ModelError, match=r"^the layer 'relu' of small did not run on this input$"):
        model.capture(batch(model), [relu])


def test_a_single_logit_is_seen_as_the_pair_of_its_two_classes() -> None:
    module = live_in(
        nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1))
    )
    model = as_model(module, 1)
    with torch.no_grad():
        logits = model.logits(batch(model))
        z = module(batch(model))
    assert torch.equal(logits, torch.cat([-z, z], dim=1))
    torch.testing.assert_close(model.probabilities(logits)[:, 1:], z.sigmoid())
    torch.testing.assert_close(model.probabilities(logits).sum(dim=1), torch.ones(3))


def test_pixels_are_normalised_channel_by_channel() -> None:
    model = camcli.open_model()
    view = noise_pictures(model, 1)[0].view
    mean, std = (torch.tensor(v) for v in (model.preprocessing.mean, model.preprocessing.std))
    expected = (torch.tensor(view).double() / 255 - mean) / std
    got = model.inputs([view])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[0].permute(1, 2, 0).double(), expected, rtol=1e-5, atol=1e-6)
