"""LRP: Captum, a loop by hand for every composite, conservation, refusals."""

from __future__ import annotations

import captum.attr
import pytest
import torch
import torchvision
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import lrp, method_request
from gradattr.attribution.propagation.relevance import Relevance
from gradattr.errors import MethodError

RULES = ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat")
EPSILON = 1e-2


def made(build):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = 0.3 * torch.randn_like(module.running_mean)
                module.running_var = torch.rand_like(module.running_var) + 0.5
    return model.eval()


def sequential():
    layers = [nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(200, 20), nn.ReLU(), nn.Linear(20, 6))


def test_captum_on_a_sequential_network(images, assert_close):
    model, x = made(sequential), images(3) - 0.4
    found = lrp(model, x, epsilon=EPSILON)
    for module in model:
        if not isinstance(module, nn.ReLU | nn.Flatten):
            module.rule = EpsilonRule(EPSILON)
    model[5].rule = EpsilonRule(1e-300)  # Captum wants one for Flatten: nothing is stabilised
    theirs = captum.attr.LRP(model).attribute(x.clone(), target=found.index)
    assert_close(found.maps, theirs.detach(), 1e-7)


class Residual(nn.Module):
    """Convolutions with and without batch norm, max-pooling, a sum, in place, linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.relu = nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True)
        self.last = nn.Linear(5, 6)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.norm1(self.conv1(x))), 3)
        y = self.norm2(self.conv2(x))
        y += x
        z = F.leaky_relu(self.conv3(F.leaky_relu(y, 0.2)), 0.1)
        return self.last(z.mean((2, 3)))


def merged(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = torch.zeros(()) if conv.bias is None else conv.bias
    return conv.weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias


def stable(z):
    return z + EPSILON * torch.where(z < 0, -1, 1)


def pulled(function, a, share):
    leaf = a.detach().requires_grad_(True)
    with torch.enable_grad():
        return torch.autograd.grad(function(leaf), leaf, share)[0]


def epsilon_step(a, w, b, relevance, **how):
    z = F.conv2d(a, w, b, **how)
    return a * pulled(lambda t: F.conv2d(t, w, **how), a, relevance / stable(z))


def signed_step(a, w, b, relevance, sign, **how):
    """In proportion to the contributions a_i w_ij of one sign, found one by one."""
    kernel, flat = w.shape[2:], w.flatten(1)
    columns = F.unfold(a, kernel, **how)
    parts = (flat[None, :, :, None] * columns[:, None]).mul(sign).clamp(min=0)
    z = parts.sum(2) + (sign * b).clamp(min=0)[:, None]
    share = relevance.flatten(2) / (z + EPSILON)
    return F.fold((parts * share[:, :, None]).sum(1), a.shape[2:], kernel, **how)


def conv_step(rule, a, w, b, relevance, **how):
    if rule == "epsilon":
        return epsilon_step(a, w, b, relevance, **how)
    plus = signed_step(a, w, b, relevance, 1, **how)
    if rule == "epsilon_plus_flat":
        return plus
    return 2 * plus - signed_step(a, w, b, relevance, -1, **how)


def flat_step(a, w, relevance, **how):
    fan = F.conv2d(torch.ones_like(a), torch.ones_like(w), **how)
    share = relevance / stable(fan)
    return pulled(lambda t: F.conv2d(t, torch.ones_like(w), **how), a, share)


@torch.no_grad()
def by_hand(model, x, index, rule):
    """Relevance itself, layer by layer, of one sample."""
    (w1, b1), (w2, b2) = merged(model.conv1, model.norm1), merged(model.conv2, model.norm2)
    r = F.conv2d(x, w1, b1, stride=2).relu()
    p, places = F.max_pool2d(r, 3, return_indices=True)
    z2 = F.conv2d(p, w2, b2, padding=1)
    u = z2 + p
    a = F.leaky_relu(u, 0.2)
    h = F.leaky_relu(model.conv3(a), 0.1)
    mean = h.mean((2, 3))
    logit = model.last(mean)[0, index]
    relevance = (mean * model.last.weight[index] * logit / stable(logit))[..., None, None]
    relevance = h / h[0, 0].numel() * relevance / stable(mean)[..., None, None]
    relevance = conv_step(rule, a, model.conv3.weight, model.conv3.bias, relevance)
    ratio = relevance / stable(u)
    relevance = p * ratio + conv_step(rule, p, w2, b2, z2 * ratio, padding=1)
    relevance = F.max_unpool2d(relevance, places, 3, output_size=r.shape[2:])
    if rule == "epsilon":
        return epsilon_step(x, w1, b1, relevance, stride=2)
    return flat_step(x, w1, relevance, stride=2)


@pytest.mark.parametrize("rule", RULES)
def test_a_residual_network_gone_through_by_hand(images, assert_close, rule):
    model, x = made(Residual), images(2) - 0.4
    found = lrp(model, x, rule=rule, epsilon=EPSILON)
    expected = [by_hand(model, x[i : i + 1], int(c), rule) for i, c in enumerate(found.index)]
    assert_close(found.maps, torch.cat(expected), 1e-8)


def test_without_biases_nothing_is_lost(images):
    model = made(sequential)
    for module in model:
        if hasattr(module, "bias"):
            nn.init.zeros_(module.bias)
    for rule in RULES:
        found = lrp(model, images(3) - 0.4, rule=rule, epsilon=1e-13)
        assert (found.completeness_gap / found.score).abs().max() < 1e-8
        assert not found.baseline_score.any()


@pytest.mark.parametrize("target", ["logit_true", "prob_pred", "loss_true", 3])
def test_other_targets_are_sums_over_logits(images, assert_close, target):
    model, x, labels = made(Residual), images(2), torch.tensor([1, 4])
    found = lrp(model, x, target, labels=labels)
    each = torch.stack([lrp(model, x, c).maps for c in range(6)])
    logits = found.logits.clone().requires_grad_(True)
    index = found.index[:, None]
    scores = {
        "prob_pred": logits.softmax(1).gather(1, index).sum(),
        "loss_true": F.cross_entropy(logits, labels, reduction="sum"),
    }
    score = scores.get(target, logits.gather(1, index).sum())
    (slope,) = torch.autograd.grad(score, logits)
    assert_close(found.maps, torch.einsum("nc,cnijk->nijk", slope, each), 1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_samples_alone_and_in_batches_and_the_model_afterwards(images, assert_close, rule):
    model, x = made(lambda: torchvision.models.resnet18(num_classes=6)), images(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x[1] = torch.nan
    found = lrp(model.train(), x, rule=rule)
    assert found.status == ("ok", "non_finite", "ok")
    assert_close(lrp(model, x, rule=rule, batch_size=1).maps[[0, 2]], found.maps[[0, 2]])
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.last, self.function = nn.Conv2d(3, 4, 3, 2), nn.LazyLinear(6), function

    def forward(self, x):
        return self.last(self.function(self.conv(x)).flatten(1))


REFUSED = {
    "sigmoid": (torch.sigmoid, "is not 0 at 0"),
    "mul": (lambda a: a * a.mean((2, 3), keepdim=True), "no rule to share out a product"),
    "layer_norm": (lambda a: F.layer_norm(a, a.shape[1:]), "statistic of the sample"),
    "softmax": (lambda a: a.softmax(1), "attention multiplies"),
    "sin": (torch.sin, "has no answer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(images, name):
    function, text = REFUSED[name]
    model = Calls(function)
    model(torch.zeros(1, 3, 32, 32))
    reason = Relevance().obstacle(model.double().eval(), images(1))
    assert f"'{name}' in Calls: " in reason
    assert text in reason
    with pytest.raises(MethodError, match=f"'{name}'"):
        lrp(model, images(1))


def test_the_flat_rule_needs_a_first_layer(images):
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(768, 6)).double().eval()
    assert Relevance().obstacle(model, images(1)) is None
    reason = Relevance("epsilon_plus_flat").obstacle(model, images(1))
    assert "'avg_pool2d' in module '0' (AvgPool2d): it works on the input itself" in reason


def test_the_flat_rule_looks_through_normalisation(images, assert_close):
    model, x = made(sequential), images(2)

    class Normalised(nn.Module):
        def forward(self, x):
            return model((x - 0.4) / 0.2)

    found = lrp(Normalised(), x, rule="epsilon_plus_flat")
    expected = lrp(model, (x - 0.4) / 0.2, rule="epsilon_plus_flat")
    assert_close(found.maps, expected.maps)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"rule": "gamma"}, "rule: 'gamma'"), ({"epsilon": 0.0}, "epsilon: 0.0 given")],
)
def test_what_cannot_be(parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request("lrp", **parameters)
