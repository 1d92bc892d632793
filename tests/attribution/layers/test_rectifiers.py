"""Guided backprop and deconvolution against Captum, plain loops, and every way to write a ReLU."""

from __future__ import annotations

import captum.attr
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import (
    PlainEvaluator,
    attribute,
    deconvolution,
    gradient,
    guided_backprop,
    method_request,
    tune,
)
from gradattr.attribution.layers.rectified_gradients import RectifiedGradient
from gradattr.attribution.layers.rectifiers import Rectifying
from gradattr.errors import MethodError

OURS = {"guided_backprop": guided_backprop, "deconvolution": deconvolution}
CAPTUMS = {
    "guided_backprop": captum.attr.GuidedBackprop,
    "deconvolution": captum.attr.Deconvolution,
}
pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks")
BOTH = pytest.mark.parametrize("name", OURS)


class Written(nn.Module):
    """Two convolutions and a linear layer; ``form`` is how its ReLUs are written."""

    def __init__(self, form, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8, 6)
        self.form = form
        self.double().eval()

    def forward(self, x):
        x = self.form(self.one(x))
        return self.head(self.form(self.two(x)).mean((2, 3)))


def in_place(change):
    """What is read later is the tensor that was written to, not what the call returns."""

    def form(x):
        change(x)
        return x

    return form


FORMS = {
    "F.relu": F.relu,
    "F.relu by name": lambda x: F.relu(input=x, inplace=False),
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": in_place(lambda x: x.relu_()),
    "F.relu_": in_place(F.relu_),
    "F.relu in place": in_place(lambda x: F.relu(x, inplace=True)),
    "F.relu in place by position": in_place(lambda x: F.relu(x, True)),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": in_place(nn.ReLU(inplace=True)),
    "clamp": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, 0),
    "clamp_": in_place(lambda x: x.clamp_(min=0.0)),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_min_": in_place(lambda x: x.clamp_min_(0)),
    "clip": lambda x: torch.clip(x, min=0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "max": lambda x: torch.max(torch.zeros_like(x), x),
    "nn.Threshold": nn.Threshold(0.0, 0.0),
    "nn.Hardtanh from 0": nn.Hardtanh(0.0, 1e9),
    "aten": torch.ops.aten.relu.default,
}


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_a_relu_is_a_relu_however_it_is_written(name, form, images, assert_close):
    x = images(3)
    expected = CAPTUMS[name](Written(nn.ReLU())).attribute(x.requires_grad_(), target=2)
    found = OURS[name](Written(FORMS[form]), x.detach(), 2)
    assert_close(found.maps, expected.detach())
    plain = gradient(Written(nn.ReLU()), x, 2).maps
    assert (found.maps - plain).abs().max() > 0.1 * plain.abs().max()
    assert found.evaluations == 1


@BOTH
@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18"])
def test_captum(name, net, network, images, assert_close):
    model, x = network(net), images(3)
    expected = CAPTUMS[name](model).attribute(x.clone().requires_grad_(), target=4)
    assert_close(OURS[name](model, x, 4).maps, expected.detach())


@BOTH
@pytest.mark.parametrize("high", [6.0, 0.5])
def test_by_hand_with_an_upper_end(name, high, assert_close):
    generator = torch.Generator().manual_seed(0)
    first, second, last = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((9, 5), (7, 9), (6, 7))
    )
    x = 3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)

    class Net(nn.Module):
        def forward(self, x):
            relu6 = nn.ReLU6() if high == 6 else nn.Hardtanh(0.0, high)
            return relu6(F.relu(x @ first.T) @ second.T) @ last.T

    rows = []
    for row in x:
        one = first @ row
        two = second @ one.clamp(min=0)
        slope = last[3] * (last[3] > 0) * (two < high)
        slope = slope * (two > 0) if name == "guided_backprop" else slope
        slope = second.T @ slope
        slope = slope * (slope > 0)
        slope = slope * (one > 0) if name == "guided_backprop" else slope
        rows.append(first.T @ slope)
    assert_close(OURS[name](Net(), x, 3).maps, torch.stack(rows))


@BOTH
def test_who_reads_a_tensor_before_and_after_it_is_rectified_in_place(name, images, assert_close):
    class Twice(Written):
        def __init__(self, in_place):
            super().__init__(None)
            self.in_place = in_place

        def forward(self, x):
            x = self.one(x)
            before = x * 2
            after = x.relu_() if self.in_place else x.relu()
            x = x if self.in_place else after
            return self.head((x * 3 + after + before).mean((2, 3)))

    x = images(2)
    found, expected = (OURS[name](Twice(way), x, 1) for way in (True, False))
    assert torch.equal(found.logits, expected.logits)
    assert_close(found.maps, expected.maps)


@BOTH
@pytest.mark.parametrize("target", ["logit_true", "loss_true", "loss_pred", "prob_pred", 5])
def test_every_target(name, target, network, images, assert_close):
    """Against the loop over images, each by itself."""
    model, x, labels = network("cnn"), images(3), torch.tensor([1, 0, 5])
    found = OURS[name](model, x, target, labels=labels)
    captums = CAPTUMS[name]
    for row in range(3):
        one = x[row : row + 1].clone().requires_grad_()
        index = (
            labels[row] if str(target).endswith("true") else model(one.detach().clone()).argmax()
        )

        def scalar(z, index=index):
            logits = model(z)
            if isinstance(target, int):
                return logits[:, target]
            log_p = torch.log_softmax(logits, 1)[:, index]
            kinds = {"logit": logits[:, index], "prob": log_p.exp(), "loss": -log_p}
            return kinds[target.partition("_")[0]]

        method = captums(model)
        method.forward_func = scalar
        assert_close(found.maps[row : row + 1], method.attribute(one).detach())


@BOTH
@settings(max_examples=5, deadline=None)
@given(batch_size=st.integers(1, 6), rows=st.permutations(range(5)))
def test_neighbours_and_batch_size_do_not_matter(name, network, images, batch_size, rows):
    model, x = network("cnn"), images(5)
    alone = torch.cat([OURS[name](model, x[row : row + 1]).maps for row in rows])
    together = OURS[name](model, x[rows], batch_size=batch_size).maps
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


@BOTH
def test_a_tuned_model_gives_the_same(name, network, images, assert_close):
    model, x = network("cnn"), images(2)
    tuned = tune(model, x)
    assert {"fold", "stem"} <= set(tuned.report["steps"])
    assert_close(OURS[name](tuned, x, 1).maps, OURS[name](model, x, 1).maps, 1e-9)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Identity()], "no ReLU lies between input and output. It would be the plain gradient"),
        ([nn.GELU()], r"no ReLU .* are gelu \(1\)"),
        ([nn.ReLU(), nn.SiLU()], r"beside 1 ReLUs .* silu \(1\)"),
        ([nn.ReLU(), nn.SiLU(inplace=True)], r"silu \(1\)"),
        ([nn.ReLU(), nn.Hardswish()], "hardswish"),
        ([nn.ReLU(), nn.ELU(inplace=True)], "elu"),
        ([nn.ReLU(), nn.Tanh()], "tanh"),
        ([nn.ReLU(), nn.LeakyReLU(0.1)], "leaky_relu"),
        ([nn.ReLU(), nn.PReLU()], "prelu"),
        ([nn.ReLU(), nn.Softplus()], "softplus"),
        ([nn.ReLU(), nn.Hardtanh()], "hardtanh"),
        ([nn.ReLU(), nn.Sigmoid()], "sigmoid"),
        ([nn.ReLU(), lambda x: x * torch.sigmoid(x)], r"x \* sigmoid\(x\)"),
        ([nn.ReLU(), lambda x: torch.where(x > 0, x, 0.1 * x)], "a choice by comparison"),
        ([nn.ReLU(), lambda x: x * (x > 0)], "a choice by comparison"),
    ],
)
def test_networks_that_would_keep_a_derivative_are_refused(layers, words, images):
    class Net(Written):
        def forward(self, x):
            for layer in layers:
                x = layer(x * 1.0)
            return self.head(F.conv2d(self.one(x), self.two.weight).mean((2, 3)))

    model, x = Net(None), images(1)
    layers[:] = [layer.double() if isinstance(layer, nn.Module) else layer for layer in layers]
    reason = RectifiedGradient("guided").obstacle(model, x)
    assert reason is not None
    for ours in OURS.values():
        with pytest.raises(MethodError, match=words) as refused:
            ours(model, x)
        assert str(refused.value) == reason


def test_compiled_networks_are_refused(images):
    with pytest.warns(Warning, match="deprecated"):
        scripted = torch.jit.trace(Written(F.relu), images(1))
    with pytest.raises(MethodError, match=r"the model is compiled, its ReLUs are out of reach"):
        guided_backprop(scripted, images(1))


@BOTH
def test_a_relu_that_does_not_reach_the_output_is_none(name, images):
    class Net(Written):
        def forward(self, x):
            y = self.one(x)
            F.relu(y)
            return self.head(y.mean((2, 3)))

    with pytest.raises(MethodError, match="no ReLU lies between"):
        OURS[name](Net(None), images(1))


@BOTH
def test_gates_attention_and_clamped_pixels_keep_their_derivative(name, images):
    class Gated(Written):
        def forward(self, x):
            x = self.form(self.one(x.clamp(0, 1)))
            x = self.form(self.two(x * torch.sigmoid(x.mean((2, 3), keepdim=True))))
            tokens = x.flatten(2)
            weights = torch.softmax(tokens.transpose(1, 2) @ tokens, -1)
            return self.head((tokens @ weights).mean(2))

    x = images(2)
    plain = Gated(lambda x: x)
    with Rectifying("guided") as mode:
        plain(x.clone().requires_grad_()).sum().backward()
    assert mode.met == 0
    assert not mode.others
    expected = CAPTUMS[name](Gated(nn.ReLU())).attribute(x.clone().requires_grad_(), target=0)
    torch.testing.assert_close(OURS[name](Gated(F.relu), x, 0).maps, expected, rtol=1e-10, atol=0)


@BOTH
def test_squeeze_and_excitation(name, images, assert_close):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = torchvision.ops.SqueezeExcitation(8, 4)
    x = images(2)
    model = Written(nn.Sequential(nn.ReLU(), block.double()))
    expected = CAPTUMS[name](model).attribute(x.clone().requires_grad_(), target=3)
    assert_close(OURS[name](model, x, 3).maps, expected.detach())


@BOTH
def test_the_network_is_left_as_it_was(name, images):
    model = Written(nn.ReLU(inplace=True)).train()
    x = images(2)
    before = x.clone()
    found = OURS[name](model, x, 1)
    plain = gradient(model, x, 1)
    assert torch.equal(x, before)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(found.logits, plain.logits)
    broken = Written(None)
    with pytest.raises(TypeError):
        OURS[name](broken, x)
    with torch.enable_grad():
        y = torch.tensor([-1.0, 2.0], requires_grad=True)
        assert torch.autograd.grad(-y.relu().sum(), y)[0].tolist() == [0.0, -1.0]


def test_dead_relus_are_degenerate(images):
    model = Written(lambda x: F.relu(x - 1e3))
    found = guided_backprop(model, torch.cat([images(1), torch.full((1, 3, 32, 32), torch.nan)]))
    assert found.status == ("degenerate", "non_finite")
    assert guided_backprop(Written(F.relu), images(1)).status == ("ok",)


def test_without_gradients_enabled(network, images):
    x = images(1)
    with torch.no_grad():
        found = guided_backprop(network("cnn"), x, 0)
    assert torch.equal(found.maps, guided_backprop(network("cnn"), x, 0).maps)


def test_float32_beside_other_methods(network, images):
    model, x = network("cnn").float(), images(2).float()
    try:
        requests = [method_request(name) for name in ("gradient", *OURS)]
        plain, guided, _ = attribute(PlainEvaluator(model), x, requests, seeds=[0, 1])
        assert guided.maps.dtype == torch.float32
        assert torch.equal(plain.maps, gradient(model, x).maps)
    finally:
        model.double()


def test_rules():
    with pytest.raises(ValueError, match="rule: 'relu' given, 'guided' or 'deconvolution'"):
        RectifiedGradient("relu")
