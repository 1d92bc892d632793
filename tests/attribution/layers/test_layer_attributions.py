"""Paths through a layer against Captum, plain loops, and what they add up to."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradattr.attribution import (
    Uniform,
    Unlearned,
    integrated_gradients,
    layer_conductance,
    layer_integrated_gradients,
)
from gradattr.attribution.layers.layer_attributions import (
    LayerConductance,
    LayerIntegratedGradients,
)
from gradattr.attribution.layers.spatial_layers import spread
from gradattr.attribution.quadrature import quadrature
from gradattr.errors import MethodError
from tests.small_transformers import vit

BOTH = pytest.mark.parametrize(
    "method", [layer_integrated_gradients, layer_conductance], ids=lambda method: method.__name__
)
RULES = pytest.mark.parametrize(
    "rule", ["left", "right", "midpoint", "trapezoid", "gauss_legendre"]
)


def locations(maps):
    return spread(maps.detach().sum(1, keepdim=True), (32, 32))


def test_captum(network, images, assert_close):
    """Up to its float32 steps."""
    model, x, layer = network("resnet18"), images(2), "layer2.0.conv1"
    module, zero = model.get_submodule(layer), torch.zeros(1, 3, 32, 32).double()
    oracle = captum.attr.LayerIntegratedGradients(model, module)
    expected = locations(oracle.attribute(x, zero, target=2, n_steps=4))
    assert_close(layer_integrated_gradients(model, x, 2, layer=layer, steps=4).maps, expected, 1e-6)
    oracle = captum.attr.LayerConductance(model, module)
    expected = oracle.attribute(x, zero, target=2, n_steps=4, method="riemann_trapezoid")
    found = layer_conductance(model, x, 2, layer=layer, steps=4, rule="left")
    assert_close(found.maps, locations(expected), 1e-5)
    assert found.evaluations == 5


def rest(model, layer):
    return model[: layer + 1], model[layer + 1 :]


@RULES
@pytest.mark.parametrize("layer", [4, 5])
def test_loops_by_hand(rule, layer, network, images, assert_close):
    model, x = network("cnn"), images(3)
    front, back = rest(model, layer)
    start = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    nodes, weights = quadrature(rule, 5)

    def slope(a):
        a = a.detach().clone().requires_grad_()
        return torch.autograd.grad(back(a.clone())[0, 1], a)[0]

    def seen(z):
        with torch.no_grad():
            return front(z.clone())

    lines, flows = [], []
    for row in range(3):
        one = x[row : row + 1]
        a, b = seen(start), seen(one)
        total = sum(w * slope(a + s * (b - a)) for s, w in zip(nodes, weights, strict=True))
        lines.append(total * (b - a))
        flow, edge = torch.zeros_like(a), 0.0
        for s, w in zip(nodes, weights, strict=True):
            change = seen(start + (edge + w) * (one - start)) - seen(start + edge * (one - start))
            flow = flow + slope(seen(start + s * (one - start))) * change
            edge += w
        flows.append(flow)
    given = {"layer": str(layer), "steps": 5, "rule": rule, "baseline": start}
    found = layer_integrated_gradients(model, x, 1, **given)
    assert_close(found.maps, locations(torch.cat(lines)))
    found = layer_conductance(model, x, 1, **given)
    assert_close(found.maps, locations(torch.cat(flows)))


def test_completeness(network, images):
    """Of a layer without shortcuts around it both add up to the score's difference."""
    model, x = network("smooth"), images(2)
    assert (layer_integrated_gradients(model, x, layer="1").completeness_gap.abs() < 1e-10).all()
    exact = layer_conductance(model, x, layer="1", steps=20)
    assert (exact.completeness_gap.abs() < 1e-3 * (exact.score - exact.baseline_score).abs()).all()
    straight = integrated_gradients(model, x, steps=1)
    for method in (layer_integrated_gradients, layer_conductance):
        torch.testing.assert_close(method(model, x, layer="1").baseline_score,
                                   straight.baseline_score)  # fmt: skip
    resnet = network("resnet18")
    inside = layer_integrated_gradients(resnet, x, layer="layer2.0.conv1", steps=3)
    assert (
        inside.baseline_score - integrated_gradients(resnet, x, steps=1).baseline_score
    ).abs().min() > 0
    total = inside.maps.sum((1, 2, 3))
    torch.testing.assert_close(
        total, inside.score - inside.baseline_score + inside.completeness_gap
    )


def test_of_a_linear_head_all_rules_are_exact(images, assert_close):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        conv, head = nn.Conv2d(3, 5, 4, 4), nn.Linear(5 * 64, 6)
    net, x = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head).double(), images(2)
    change = conv(x).relu() - conv(torch.zeros_like(x)).relu()
    expected = locations(change * head.weight[2].view(5, 8, 8))
    for rule in ("left", "trapezoid"):
        found = layer_integrated_gradients(net, x, 2, steps=2, rule=rule)
        assert_close(found.maps, expected)
        found = layer_conductance(net, x, 2, steps=3, rule=rule)
        assert_close(found.maps, expected)
        assert found.completeness_gap.abs().max() < 1e-12


@BOTH
@settings(max_examples=5, deadline=None)
@given(batch_size=st.integers(1, 9), rows=st.permutations(range(3)))
def test_neighbours_and_batch_size_do_not_matter(method, network, images, batch_size, rows):
    model, x = network("cnn"), images(3)
    given = {"steps": 4, "baseline": Uniform()}
    alone = [method(model, x[row : row + 1], seeds=[row], **given).maps for row in rows]
    together = method(model, x[rows], seeds=rows, batch_size=batch_size, **given).maps
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-13)


@BOTH
@pytest.mark.parametrize("target", ["loss_true", "prob_pred", 3])
def test_every_target(method, target, network, images):
    """Complete for each of them."""
    found = method(
        network("smooth"), images(2), target, steps=20, labels=torch.tensor([1, 4]), layer="1"
    )
    difference = (found.score - found.baseline_score).abs()
    assert (found.completeness_gap.abs() < 1e-3 * difference).all()


@BOTH
@RULES
def test_cost_is_what_is_evaluated(method, rule, watching, network, images):
    calls = 0

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network("cnn")

        def forward(self, x):
            nonlocal calls
            calls += len(x)
            return self.net(x)

    x = images(2)
    found = method(Counting(), x, 0, steps=5, rule=rule, batch_size=4)
    # Beside it the predictions, the baseline's score, and an image to find the layer.
    shared = 2 if method is layer_integrated_gradients else 0
    assert calls - 2 - 1 - 1 in (found.evaluations * 2 - shared, found.evaluations * 2 - 1)


def test_uni_baselines_and_costs():
    start = Unlearned()
    plain, unlearned = LayerIntegratedGradients(), LayerIntegratedGradients(baseline=start)
    assert plain.evaluations(10, (3, 32, 32)) == 53
    assert unlearned.evaluations(10, (3, 32, 32)) == 53 + start.evaluations
    costs = {rule: LayerConductance(None, 5, rule).evaluations(10, (3, 32, 32))
             for rule in ("left", "right", "midpoint", "trapezoid", "gauss_legendre")}  # fmt: skip
    assert costs == {"left": 6, "right": 6, "midpoint": 11, "trapezoid": 9, "gauss_legendre": 11}


@BOTH
def test_tokens_and_refusals(method, network, images):
    found = method(vit(), images(2), steps=3)
    assert found.maps.shape == (2, 1, 32, 32)
    assert found.status == ("ok", "ok")
    same = method(vit(), images(2), steps=3, baseline=0.25)
    assert not torch.equal(same.maps, found.maps)
    with pytest.raises(MethodError, match="no spatial layer"):
        method(network("mlp"), images(1))
    with pytest.raises(ValueError, match="steps: 0 given"):
        method(network("cnn"), images(1), steps=0)
    nowhere = method(network("cnn"), torch.zeros(1, 3, 32, 32).double())
    assert nowhere.status == ("degenerate",)
