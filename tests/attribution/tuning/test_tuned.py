"""Tuned evaluators give the answers of the plain one, whatever the model does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution.agreement import agreement
from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.target import cross_entropy, logit
from gradattr.attribution.tuning.tuned import TunedEvaluator, tune
from gradattr.errors import MethodError


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms and layer scales as if the model had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(0.2 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(0.2 * torch.randn(module.num_features, generator=generator))
    return model


class FunctionalBlock(nn.Module):
    """A CIFAR residual block with functional and in-place activations."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.pad = out - into
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.pad))
        y += x
        return F.relu_(y)


def resnet20() -> nn.Module:
    widths = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1)]
    widths += [(32, 64, 2), (64, 64, 1), (64, 64, 1)]
    first = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)]
    return nn.Sequential(*first, *(FunctionalBlock(*w) for w in widths), *last)


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=10,
    )  # fmt: skip


def small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2), 8, num_classes=10)


def small_convnext() -> nn.Module:
    block = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([block(8, 16, 1), block(16, None, 1)], num_classes=10)


class Branching(nn.Module):
    """Control flow that depends on the values: no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if y.mean() > 1e6:
            y = y * 2
        return self.head(y.mean((2, 3)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 50), nn.ReLU(), nn.Dropout(), nn.Linear(50, 10)
    ),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 144, 10),
    ),
    "in-place at the front": lambda: nn.Sequential(
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    ),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "resnet20": resnet20,
    "densenet": small_densenet,
    "convnext": small_convnext,
    "vit": small_vit,
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "branching": Branching,
}


def images(n: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(5)).to(dtype)


def make(name: str) -> nn.Module:
    torch.manual_seed(3)
    return with_statistics(MODELS[name]()).eval()


def full(evaluator: Any, x: Tensor, objective: Any = logit) -> tuple[Tensor, Tensor, Tensor]:
    """(values, gradients in x, logits)."""
    index = torch.arange(len(x)) % 10
    values, grad, logits = evaluator.gradients(evaluator.stem(x), index, objective)
    return values, evaluator.pullback(grad, x.shape), logits


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_plain_model_in_float64(name: str) -> None:
    model, x = make(name).double(), images()
    tuned = tune(model, x[:2])
    for got, expected in zip(full(tuned, x), full(PlainEvaluator(model), x), strict=True):
        scale = expected.abs().max()
        assert (got - expected).abs().max() <= 1e-10 * scale
    torch.testing.assert_close(tuned.logits(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["cnn", "resnet18", "resnet20", "densenet", "mobilenet"])
def test_ranks_like_the_plain_model_in_float32(name: str) -> None:
    model, x = make(name), images(dtype=torch.float32)
    tuned, plain = tune(model, x[:2]), PlainEvaluator(copy.deepcopy(model))
    found = agreement(full(plain, x)[1], full(tuned, x)[1])
    assert (found.spearman >= 0.9999).all()


EXPECTED_STEPS = {
    "linear": {"trace", "stem"},
    "mlp": {"trace", "stem"},
    "cnn": {"trace", "stem", "channels_last"},
    "in-place at the front": {"trace", "fold", "channels_last"},
    "resnet18": {"trace", "fold", "stem", "channels_last"},
    "resnet20": {"trace", "fold", "stem", "channels_last"},
    "densenet": {"trace", "fold", "stem", "channels_last"},
    "convnext": {"trace", "stem", "channels_last"},
    "mobilenet": {"trace", "fold", "stem", "channels_last"},
    "branching": {"fold", "channels_last"},
}


@pytest.mark.parametrize(("name", "steps"), EXPECTED_STEPS.items())
def test_report_names_every_step(name: str, steps: set[str]) -> None:
    report = tune(make(name), images(2, torch.float32)).report
    assert set(report["steps"]) == steps
    assert set(report["steps"]) | set(report["dropped"]) == {
        "trace", "fold", "stem", "channels_last"
    }  # fmt: skip
    assert all(report["dropped"].values())
    assert report["independent_rows"] is True


def test_untraceable_model_says_why() -> None:
    report = tune(make("branching"), images(2, torch.float32)).report
    assert "control flow" in report["dropped"]["trace"]
    assert report["dropped"]["stem"] == "needs a traced graph"


def test_model_is_left_as_it_was() -> None:
    model = make("resnet20").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tune(model, images(2, torch.float32))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert any(getattr(module, "inplace", False) for module in model.modules())


def test_points_are_left_as_they_were() -> None:
    for name in ("cnn", "in-place at the front", "branching"):
        x = images(2, torch.float32)
        tuned = tune(make(name), x)
        h = tuned.stem(x)
        kept = h.clone()
        tuned.gradients(h, torch.tensor([0, 1]), logit)
        tuned.logits_and_gradients(h, ())
        assert torch.equal(h, kept)
        assert torch.equal(x, images(2, torch.float32))


def test_several_choices_from_one_forward_pass() -> None:
    x = images(3)
    tuned = tune(make("cnn").double(), x)
    h = tuned.stem(x)
    index = torch.tensor([1, 2, 3])
    choices = [lambda _: (index, logit), lambda logits: (logits.argmax(1), cross_entropy)]
    logits, explained = tuned.logits_and_gradients(h, choices)
    torch.testing.assert_close(logits, tuned.logits(x), rtol=1e-12, atol=1e-12)
    for found, objective in zip(explained, (logit, cross_entropy), strict=True):
        values, grads, _ = tuned.gradients(h, found.index, objective)
        torch.testing.assert_close(found.values, values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.grads, grads, rtol=1e-12, atol=1e-12)


def test_steps_can_be_switched_off() -> None:
    x = images(2, torch.float32)
    report = tune(make("resnet20"), x, fold=False, split=False, channels_last=False).report
    assert report["steps"] == []
    assert tune(make("resnet20"), x, fold=False).report["layers"].get("fold") is None


class Restless(nn.Module):
    """A wrong graph: the trace sees what the first call did, later calls do something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3072, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x.flatten(1))
        return out if isinstance(out, torch.fx.Proxy) else out.sin() * 3


def test_a_graph_that_is_not_the_model_is_dropped() -> None:
    model, x = Restless(), images(2)
    tuned = tune(model.double(), x)
    assert tuned.report["steps"] == []
    assert "logits differ" in tuned.report["dropped"]["trace"]
    torch.testing.assert_close(tuned.logits(x), model(x))


class Viewing(nn.Module):
    """``view`` of a convolution's output fails in channels-last memory; without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3600, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y if float(y.detach().sum()) < 1e9 else -y
        return self.head(y.view(len(y), -1))


def test_a_layout_that_the_model_cannot_take_is_dropped() -> None:
    x = images(2, torch.float32)
    tuned = tune(Viewing(), x)
    assert "view size is not compatible" in tuned.report["dropped"]["channels_last"]
    assert tuned.report["steps"] == []
    assert tuned.logits(x).shape == (2, 10)


def test_norm_over_the_batch_is_reported() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    report = tune(model, images(2, torch.float32)).report
    assert report["independent_rows"] is False
    assert "fold" not in report["steps"]


def test_model_that_insists_on_float32() -> None:
    class Insisting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = make("resnet20")

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.float() / 2)

    model, x = Insisting(), images(2, torch.float32)
    tuned = tune(model, x)
    assert "fold" in tuned.report["steps"]
    expected = full(PlainEvaluator(copy.deepcopy(model)), x)[1]
    assert (agreement(expected, full(tuned, x)[1]).spearman >= 0.9999).all()


class Returning(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


BAD_MODELS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a dictionary": (lambda x: {"logits": x.flatten(1)}, "returns a dict"),
    "a tuple": (lambda x: (x.flatten(1), x), "returns a tuple"),
    "no class axis": (lambda x: x.sum((1, 2, 3)), r"shape \(2,\)"),
    "a map": (lambda x: x, r"shape \(2, 3, 32, 32\)"),
    "classes": (lambda x: x.flatten(1).argmax(1, keepdim=True), "int64"),
    "no gradient": (lambda x: x.flatten(1).detach(), "no differentiable function"),
    "saved value overwritten": (lambda x: x.exp().mul_(2).flatten(1), "cannot be differentiated"),
    "wrong size": (lambda x: x.flatten(1) @ torch.ones(7, 2), r"failed on an input of shape"),
}


@pytest.mark.parametrize(("function", "text"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_models_that_cannot_be_explained(function: Callable[[Tensor], Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        tune(Returning(function), images(2, torch.float32))


def test_model_that_cannot_be_copied() -> None:
    model = nn.Linear(3, 2)
    model.lock = threading.Lock()
    with pytest.raises(MethodError, match=r"cannot be copied .* keep locks"):
        tune(model, torch.ones(2, 3))


@pytest.mark.parametrize("example", [torch.ones(3), torch.ones(0, 3), torch.ones(2, 3).long()])
def test_bad_example(example: Tensor) -> None:
    with pytest.raises(MethodError, match="was given an example"):
        tune(nn.Linear(3, 2), example)


def test_unknown_precision() -> None:
    with pytest.raises(MethodError, match="expected 'fp32' or 'mixed'"):
        tune(nn.Linear(3, 2), torch.ones(2, 3), precision="half")  # type: ignore[arg-type]


layer_kinds = st.sampled_from(["conv", "conv-bn", "bn", "relu", "relu_", "pool", "drop", "skip"])


class Skip(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def layer(kind: str) -> list[nn.Module]:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    norm = nn.BatchNorm2d(4)
    return {
        "conv": [conv],
        "conv-bn": [conv, norm],
        "bn": [norm],
        "relu": [nn.ReLU()],
        "relu_": [norm, nn.ReLU(inplace=True)],
        "pool": [nn.AvgPool2d(3, 1, 1)],
        "drop": [nn.Dropout2d()],
        "skip": [Skip(nn.Sequential(conv, norm, nn.ReLU(inplace=True)))],
    }[kind]


@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(layer_kinds, min_size=1, max_size=7), seed=st.integers(0, 999))
def test_random_networks(kinds: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    layers = [part for kind in kinds for part in layer(kind)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    model = with_statistics(model, seed).double().eval()
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    tuned: TunedEvaluator = tune(model, x[:1])
    for got, expected in zip(full(tuned, x), full(PlainEvaluator(model), x), strict=True):
        assert (got - expected).abs().max() <= 1e-10 * expected.abs().max() + 1e-14
    assert "trace" in tuned.report["steps"]
