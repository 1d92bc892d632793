"""Mixed precision: the forward is float32's own, the backward ranks as float32's does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradattr.attribution.agreement import agreement
from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.target import logit
from gradattr.attribution.tuning import mixed, tuned
from gradattr.attribution.tuning.mixed import FrozenConv2d, FrozenLinear, install_backward
from gradattr.attribution.tuning.tuned import tune

PREPACKED = [True, False]


@pytest.fixture(autouse=True)
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 works on every CPU, if slowly: test it on every machine."""
    monkeypatch.setattr(tuned, "bfloat16_obstacle", lambda device: None)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return make().eval()


class Branching(nn.Module):
    """No graph, because it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.head((y if y.mean() < 1e6 else -y).mean((2, 3)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=10),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "vit": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(3072, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ),
    "branching": Branching,
}


@pytest.mark.parametrize("name", MODELS)
def test_ranks_like_float32(name: str) -> None:
    model = seeded(MODELS[name])
    if name == "vit":
        nn.init.normal_(model.heads.head.weight)  # zero as built: no gradient at all
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    exact, coarse = tune(model, x), tune(model, x, precision="mixed")
    assert coarse.report["precision_used"] == "mixed"
    index = torch.arange(4)
    h = coarse.stem(x)
    values, grad, logits = coarse.gradients(h, index, logit)
    expected_values, expected, expected_logits = exact.gradients(exact.stem(x), index, logit)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values, expected_values, rtol=1e-4, atol=1e-5)
    found = agreement(exact.pullback(expected, x.shape), coarse.pullback(grad, x.shape))
    assert (found.spearman >= 0.999).all(), found
    assert (found.top_overlap >= 0.97).all(), found
    assert not torch.equal(exact.pullback(expected, x.shape), coarse.pullback(grad, x.shape))


@pytest.mark.parametrize("prepacked", PREPACKED)
@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    side=st.integers(5, 12),
    channels=st.sampled_from([1, 3, 8]),
)
def test_layer_in_float32_is_the_layer(
    prepacked: bool, kernel: int, stride: int, padding: int, dilation: int, side: int,
    channels: int,
) -> None:  # fmt: skip
    assume(dilation * (kernel - 1) + 1 <= side + 2 * padding)
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 6, kernel, stride, padding, dilation).requires_grad_(False)
    layer = FrozenConv2d(conv, torch.float32)
    layer.prepacked = layer.prepacked and prepacked
    for rows in (2, 3, 1, 2):
        x = torch.randn(rows, channels, side, side + 1, requires_grad=True)
        out = layer(x)
        torch.testing.assert_close(out, conv(x), rtol=1e-4, atol=1e-5)
        g = torch.randn_like(out)
        (found,) = torch.autograd.grad(out, x, g)
        (expected,) = torch.autograd.grad(conv(x), x, g)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_which_layers_are_replaced() -> None:
    class Odd(nn.Conv2d):
        pass

    watched = nn.Linear(4, 4)
    watched.register_forward_hook(lambda module, args, output: output)
    layers = [
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), Odd(4, 4, 1), nn.Linear(4, 4),
        watched, nn.MultiheadAttention(4, 2),
    ]  # fmt: skip
    model = nn.Sequential(*layers)
    assert install_backward(model, torch.bfloat16) == 2
    assert [type(layer) for layer in model] == [
        FrozenConv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d, Odd, FrozenLinear, nn.Linear,
        nn.MultiheadAttention,
    ]  # fmt: skip
    assert install_backward(model, torch.bfloat16) == 0


def test_one_layer_in_two_places_is_replaced_in_both() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    x = torch.randn(2, 4)
    expected = model(x)
    install_backward(model, torch.bfloat16)
    assert torch.equal(model(x), expected)


def test_falls_back_where_bfloat16_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "bfloat16_obstacle", lambda device: "no such instructions")
    model, x = seeded(MODELS["mlp"]), torch.randn(2, 3, 32, 32)
    report = tune(model, x, precision="mixed").report
    assert report["precision"] == "mixed"
    assert report["precision_used"] == "fp32"
    assert report["dropped"]["mixed"] == "no such instructions"


def test_falls_back_for_other_dtypes_and_models_without_layers() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    report = tune(linear.double(), torch.randn(2, 12).double(), precision="mixed").report
    assert "float64" in report["dropped"]["mixed"]
    report = tune(linear.float(), torch.randn(2, 12), precision="mixed").report
    assert report["dropped"]["mixed"] == "no convolution or linear layer behind the stem"


def test_falls_back_when_the_answer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that computes nonsense is found out and left out."""
    wrong = FrozenConv2d.run_backward
    monkeypatch.setattr(
        FrozenConv2d, "run_backward", lambda self, *args: wrong(self, *args).flip(-1)
    )
    model, x = seeded(MODELS["resnet18"]), torch.randn(2, 3, 32, 32)
    evaluator = tune(model, x, precision="mixed")
    assert evaluator.report["precision_used"] == "fp32"
    assert "a gradient differs" in evaluator.report["dropped"]["mixed"]
    assert not any(isinstance(layer, FrozenConv2d) for layer in evaluator.rest.modules())


def test_prepacking_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "prepacking_works", lambda weight: False)
    model = seeded(MODELS["resnet18"])
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    evaluator, plain = tune(model, x, precision="mixed"), PlainEvaluator(copy.deepcopy(model))
    assert evaluator.report["precision_used"] == "mixed"
    index = torch.zeros(3, dtype=torch.long)
    _, grad, _ = evaluator.gradients(evaluator.stem(x), index, logit)
    _, expected, _ = plain.gradients(x, index, logit)
    found = agreement(expected, evaluator.pullback(grad, x.shape))
    assert (found.spearman >= 0.999).all()
