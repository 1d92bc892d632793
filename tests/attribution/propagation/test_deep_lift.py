"""DeepLIFT and DeepSHAP: adding up, a loop by hand, Captum, closed forms, refusals."""

from __future__ import annotations

import captum.attr
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import (
    Black,
    Blur,
    Noise,
    Sample,
    Uniform,
    deep_lift,
    deep_shap,
    method_request,
    tune,
)
from gradattr.attribution.propagation.deep_lift_maps import DeepLift
from gradattr.attribution.propagation.multipliers import secant, winning_shares
from gradattr.errors import MethodError

LABELS = torch.tensor([1, 4])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")


class Gated(nn.Module):
    """Squeeze and excitation, a module used twice, functions in place, a residual sum."""

    def __init__(self, activation=F.silu):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.gate = nn.BatchNorm2d(8), nn.Linear(8, 8)
        self.act, self.activation = nn.ReLU(inplace=True), activation
        self.last = nn.Linear(8 * 49, 6)

    def forward(self, x):
        y = self.act(self.first((x - 0.1) / 0.7))
        z = self.activation(self.norm(self.second(y)))
        z = z * torch.sigmoid(self.gate(z.mean((2, 3))))[:, :, None, None]
        z += y
        self.act(z)
        z = F.max_pool2d(z, 3, 2, padding=1, ceil_mode=True)[..., :7, :7]
        return self.last(torch.flatten(torch.cat([z[:, :4], 2 * z[:, 4:]], 1), 1))


def made(build):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = 0.3 * torch.randn_like(module.running_mean)
                module.running_var = torch.rand_like(module.running_var) + 0.5
    return model.eval()


def vgg():
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 6))


NETS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=6),
    "vgg": vgg,
    "gated": Gated,
    "hardswish": lambda: Gated(F.hardswish),
    "elu": lambda: Gated(lambda x: F.elu(x, 0.7)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("target", ["logit_pred", "logit_true", "prob_pred", "loss_true", 3])
def test_it_adds_up_for_every_target(images, name, target):
    model, x = made(NETS[name]), images(2)
    for baseline in (Black(), Noise(0.4)):
        found = deep_lift(model, x, target, baseline=baseline, labels=LABELS)
        assert found.completeness_gap.abs().max() < 1e-10
        assert (found.score - found.baseline_score).abs().max() > 1e-5
        assert found.evaluations == (1 if baseline.same_for_all else 2)


class Plain(nn.Module):
    """Every kind of layer, small enough to be gone through by hand."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4)
        self.conv2, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4 * 9, 6)

    def forward(self, x):
        pooled = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 5)
        return self.last(F.relu(pooled + self.conv2(pooled)).flatten(1))


def shares_by_scanning(start, end, steps=200_000):
    """How long each of the lines is the largest, counted at the middles of many steps."""
    t = (torch.arange(steps, dtype=start.dtype) + 0.5) / steps
    lines = start[:, None] + t * (end - start)[:, None]
    largest = (lines == lines.amax(0)).double()
    return (largest / largest.sum(0)).mean(1)


def by_hand(model, x, start, index):
    """The multipliers of one sample, layer by layer, from the logit down."""
    a, b = model.norm(model.conv1(x)), model.norm(model.conv1(start))
    r, s = a.clamp(min=0), b.clamp(min=0)
    p, q = F.max_pool2d(r, 5), F.max_pool2d(s, 5)
    u, v = p + model.conv2(p), q + model.conv2(q)
    grad = model.last.weight[index].view_as(u)
    grad = grad * (u.clamp(min=0) - v.clamp(min=0)) / (u - v)
    grad = grad + F.conv_transpose2d(grad, model.conv2.weight, padding=1)
    spread = torch.zeros_like(r)
    for c in range(4):
        for i in range(3):
            for j in range(3):
                window = (0, c, slice(5 * i, 5 * i + 5), slice(5 * j, 5 * j + 5))
                shares = winning_shares(s[window].reshape(1, -1), r[window].reshape(1, -1))
                counted = shares_by_scanning(s[window].flatten(), r[window].flatten(), 2000)
                assert (shares[0] - counted).abs().max() < 2e-3
                spread[window] = grad[0, c, i, j] * shares.view(5, 5)
    secants = torch.where(a == b, (a > 0).double(), (r - s) / (a - b))
    norm = model.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return F.conv_transpose2d(
        spread * secants * scale[:, None, None], model.conv1.weight, stride=2, output_padding=1
    )


def test_a_network_gone_through_by_hand(images, assert_close):
    model, x, start = made(Plain), images(1), images(1, seed=5)
    found = deep_lift(model, x, baseline=start)
    with torch.no_grad():
        expected = (x - start) * by_hand(model, x, start, int(found.index))
    assert_close(found.maps, expected, 1e-9)


class Modules(nn.Module):
    """As Captum needs it: a module for every activation. With or without max-pooling."""

    def __init__(self, pool):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), pool, nn.Conv2d(6, 8, 3), nn.Softplus(), nn.Flatten()
        )
        self.last = nn.LazyLinear(6)

    def forward(self, x):
        return self.last(self.body(x))


def for_captum(pool):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Modules(pool)
        model(torch.zeros(1, 3, 32, 32))
    return model.double().eval()


def test_captum_without_max_pooling(images, assert_close):
    model, x, pool = for_captum(nn.AvgPool2d(2)), images(3), images(4, seed=9)
    found = deep_lift(model, x, baseline=Blur(5, 2.0))
    start = Blur(5, 2.0).draw(x, [0, 1, 2], 0, None)
    theirs = captum.attr.DeepLift(model).attribute(x.clone(), start, target=found.index)
    assert_close(found.maps, theirs.detach(), 1e-8)
    drawn = [0, 2, 1, 3]  # a pool whose every input is a draw: the mean over all of it
    found = deep_shap(model, x, baseline=Each(pool[drawn]), samples=4)
    theirs = captum.attr.DeepLiftShap(model).attribute(x.clone(), pool, target=found.index)
    assert_close(found.maps, theirs.detach(), 1e-8)


class Each(Sample):
    """A pool gone through in order, so that a mean over it is known."""

    def draw(self, x, seeds, copy, normalization):
        return self.pool[copy].expand_as(x)


def test_captum_with_max_pooling_differs_and_does_not_add_up(images):
    """From a baseline whose winners are others; ours adds up."""
    model, x, start = for_captum(nn.MaxPool2d(3)), images(3), images(3, seed=5)
    found = deep_lift(model, x, baseline=Each(start[None]))
    theirs = captum.attr.DeepLift(model).attribute(x.clone(), start, target=found.index).detach()
    gap = theirs.flatten(1).sum(1) - (found.score - found.baseline_score)
    assert found.completeness_gap.abs().max() < 1e-12 < 1e-3 < gap.abs().max()
    assert (found.maps - theirs).norm() > 0.01 * theirs.norm()


def test_a_linear_model_gives_weight_times_difference(network, images):
    model, x = network("linear"), images(3)
    found = deep_lift(model, x, baseline=0.3)
    weight = model[1].weight.detach()[found.index].view_as(x)
    torch.testing.assert_close(found.maps, weight * (x - 0.3))


@pytest.mark.parametrize("name", ["vgg", "gated"])
def test_samples_alone_in_batches_and_tuned(images, assert_close, name):
    model, x = made(NETS[name]), images(5)
    x[3] = torch.nan
    for call in (
        lambda m, x, **k: deep_lift(m, x, baseline=Uniform(), **k),
        lambda m, x, **k: deep_lift(m, x, **k),
        lambda m, x, **k: deep_shap(m, x, baseline=images(3, seed=2), samples=3, **k),
    ):
        found = call(model, x, seeds=range(5))
        assert found.status == ("ok", "ok", "ok", "non_finite", "ok")
        keep = [0, 1, 2, 4]
        in_twos = call(model, x, batch_size=2, seeds=range(5))
        alone = call(model, x[4:], seeds=[4])
        tuned = call(tune(model, x[:2]), x, seeds=range(5))
        assert_close(in_twos.maps[keep], found.maps[keep])
        assert_close(alone.maps, found.maps[4:])
        assert_close(tuned.maps[keep], found.maps[keep], 1e-7)


@pytest.mark.parametrize("function", [F.gelu, torch.sigmoid, F.elu, F.hardswish, F.hardtanh])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_secants_however_close(function, dtype):
    exact = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    for distance in (1e-1, 1e-3, 1e-5, 1e-8, 1e-12, 0.0):
        a = (exact + distance).to(dtype)
        reference = exact.to(dtype)
        value, slope = secant(function, a, reference)
        left = value.double() - function(reference).double() - slope * (a - reference).double()
        assert left.abs().max() < 30 * torch.finfo(dtype).eps
        assert slope.abs().max() < 1.6


def test_shares_of_the_way_add_up():
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randint(-3, 4, (2, 500, 9), generator=generator).double()
    shares = winning_shares(start, end)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(500, dtype=torch.float64))
    gained = (shares * (end - start)).sum(1)
    torch.testing.assert_close(gained, end.amax(1) - start.amax(1))


def test_an_image_that_is_the_baseline_is_degenerate(network, images):
    x = images(2)
    x[0] = 0
    found = deep_lift(network("cnn"), x)
    assert found.status == ("degenerate", "ok")


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("deep_shap", {"baseline": Black()}, "one that varies"),
        ("deep_shap", {"baseline": Uniform(), "samples": 0}, "samples: 0"),
        ("deep_shap", {}, "'baseline'"),
    ],
)
def test_what_cannot_be(name, parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request(name, **parameters)


def test_the_obstacle_is_what_a_run_says(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4), nn.Flatten()).double().eval()
    reason = DeepLift(Black()).obstacle(model, images(1))
    assert "'group_norm' in module '1' (GroupNorm)" in reason
    with pytest.raises(MethodError) as caught:
        deep_lift(model, images(1))
    assert str(caught.value) == reason
