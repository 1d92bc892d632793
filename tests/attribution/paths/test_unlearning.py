"""UNI against a plain implementation: model copies, one image at a time, float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradattr.attribution import (
    PlainEvaluator,
    Unlearned,
    expected_gradients,
    integrated_gradients,
    method_request,
    tune,
    uni,
)
from gradattr.attribution.paths import unlearning
from gradattr.attribution.paths.unlearning import unlearned_log_p

NETWORKS = ["linear", "mlp", "cnn", "smooth", "resnet18"]


def log_p(model, x):
    return torch.log_softmax(model(x[None].clone()), dim=1)[0]


def unlearned_copy(model, image, c, eta):
    """theta + eta * grad L / ||grad L||, as a model of its own."""
    duplicate = copy.deepcopy(model).requires_grad_(True)
    (-log_p(duplicate, image)[c]).backward()
    moved = [p for p in duplicate.parameters() if p.grad is not None]
    length = sum(p.grad.square().sum() for p in moved).sqrt()
    with torch.no_grad():
        for p in moved:
            p += eta * p.grad / length
    return duplicate


def plain_uni(model, image, *, eta=1.0, iterations=10, eps=0.25, mu=0.1, steps=15):
    """Algorithm 1 of the paper for one image: baseline and map."""
    c = int(log_p(model, image).argmax())
    goal = log_p(unlearned_copy(model, image, c, eta), image).detach()
    delta = torch.zeros_like(image)
    for _ in range(iterations):
        leaf = delta.clone().requires_grad_(True)
        cost = (goal.exp() * (goal - log_p(model, image + leaf))).sum()
        (slope,) = torch.autograd.grad(cost, leaf)
        delta = delta - mu * slope
        delta = eps * delta / delta.norm()
    start, total = image + delta, torch.zeros_like(image)
    for k in range(1, steps + 1):
        point = (start + k / steps * (image - start)).requires_grad_(True)
        (slope,) = torch.autograd.grad(log_p(model, point)[c].exp(), point)
        total += slope
    return start, (image - start) / steps * total


@pytest.mark.parametrize("name", NETWORKS)
def test_map_and_baseline_of_the_algorithm(network, images, name):
    model, x = network(name), images(2 if name == "resnet18" else 3)
    found = uni(model, x)
    evaluator = PlainEvaluator(model)
    starts = Unlearned().find(evaluator, x, found.index)
    for i, image in enumerate(x):
        start, expected = plain_uni(model, image)
        assert (starts[i] - start).norm() <= 1e-6 * 0.25
        assert (found.maps[i] - expected).norm() <= 1e-6 * expected.norm()
        before, after = log_p(model, image)[found.index[i]], log_p(model, start)[found.index[i]]
        assert found.score[i].item() == pytest.approx(before.exp().item())
        assert found.baseline_confidence[i].item() == pytest.approx(after.exp().item())
    assert found.target == "prob_pred"
    assert found.evaluations == 1 + 1 + 10 + 15


def test_other_numbers(network, images):
    model, x = network("smooth"), images(2, seed=1)
    numbers = {"eta": 3.0, "iterations": 4, "eps": 1.5, "mu": 2.0, "steps": 6}
    found = uni(model, x, **numbers)
    for one, image in zip(found.maps, x, strict=True):
        expected = plain_uni(model, image, **numbers)[1]
        assert (one - expected).norm() <= 1e-6 * expected.norm()


@given(st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_batch_size_does_not_matter(network, images, n, batch_size):
    model, x = network("cnn"), images(n)
    one, other = uni(model, x, batch_size=batch_size), uni(model, x, batch_size=1)
    torch.testing.assert_close(one.maps, other.maps, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(one.path_spearman, other.path_spearman)


def test_integrated_gradients_from_its_baseline_by_its_rule_is_uni(network, images):
    model, x = network("cnn"), images(4)
    same = integrated_gradients(model, x, "prob_pred", steps=15, rule="right", baseline=Unlearned())
    found = uni(model, x)
    assert torch.equal(same.maps, found.maps)
    assert same.evaluations == found.evaluations
    # Of another target too: the baseline is that of the predicted class.
    logit = integrated_gradients(model, x, baseline=Unlearned())
    torch.testing.assert_close(logit.baseline_confidence, found.baseline_confidence)


@given(st.floats(0.05, 2), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_laws_of_the_baseline(network, images, eps, iterations, seed):
    """It lies on the sphere; the path from there adds up."""
    model, x = network("smooth"), images(2, seed)
    found = uni(model, x, steps=24, rule="gauss_legendre", eps=eps, iterations=iterations)
    start = Unlearned(eps=eps, iterations=iterations).find(PlainEvaluator(model), x, found.index)
    distance = (start - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(distance, torch.full_like(distance, eps))
    assert found.completeness_gap.abs().max() < 1e-9


def test_a_linear_model_moves_along_its_weights(images):
    """Of two classes: log p depends on one direction alone, so delta is its multiple."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).double(), images(4)
    found = uni(model, x, eps=0.5, iterations=2)
    weight = model[1].weight[0] - model[1].weight[1]
    away = (1 - 2 * found.index[:, None]) * weight / weight.norm()
    start = Unlearned(eps=0.5, iterations=2).find(PlainEvaluator(model), x, found.index)
    torch.testing.assert_close((x - start).flatten(1), 0.5 * away.detach())
    assert torch.equal(found.path_spearman, torch.ones(4, dtype=torch.float64))


def test_the_loop_over_samples_is_the_stack(network, images, monkeypatch):
    model, x = network("cnn"), images(5)
    index = model(x).argmax(1)
    stacked = unlearned_log_p(model, x, index, 1.0)
    monkeypatch.setattr(unlearning, "STACK_BYTES", 1)
    torch.testing.assert_close(unlearned_log_p(model, x, index, 1.0), stacked)


class Branching(nn.Module):
    """Control flow that depends on the data, which torch.func cannot stack."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()

    def forward(self, x):
        x = x.flatten(1)
        rows = [self.first(row) if row.sum() > 3 else self.second(row) for row in x]
        return torch.stack(rows)


def test_models_that_cannot_be_stacked():
    model = Branching()
    x = torch.rand(6, 1, 2, 3, dtype=torch.float64)
    for one, image in zip(uni(model, x).maps, x, strict=True):
        _, expected = plain_uni(model, image)
        assert (one - expected).norm() <= 1e-6 * expected.norm()


def test_nothing_to_unlearn_is_said():
    """Exactly certain in float32: the loss has no gradient; its neighbour is left alone."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))
        model[1].bias.zero_()
    x = torch.stack([torch.full((1, 2, 2), 1000.0), torch.full((1, 2, 2), 0.1)])
    found = uni(model, x)
    assert found.status == ("degenerate", "ok")
    assert not found.maps[0].any()
    assert found.path_spearman.isnan().tolist() == [True, False]
    # Gradients whose squares vanish in float32 still have a direction.
    far = uni(model, torch.full((1, 1, 2, 2), 8.0))
    assert far.status == ("ok",)
    assert far.score.item() == 1.0


def test_half_precision_keeps_its_logarithms_wide():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).bfloat16()
    x = torch.rand(2, 1, 2, 2).bfloat16()
    assert unlearned_log_p(model, x, torch.tensor([0, 1]), 1.0).dtype == torch.float32
    assert uni(model, x).status == ("ok", "ok")


def test_a_tuned_model_unlearns_with_its_own_parameters(network, images):
    """Folding changes what the parameters are; the step of ascent is in those of the model."""
    model, x = network("resnet18"), images(3)
    tuned = tune(model, x[:2])
    assert "fold" in tuned.report["steps"]
    found, expected = uni(tuned, x), uni(model, x)
    relative = (found.maps - expected.maps).flatten(1).norm(dim=1)
    assert (relative <= 1e-6 * expected.maps.flatten(1).norm(dim=1)).all()


def test_the_baseline_serves_expectations_too(network, images):
    model, x = network("smooth"), images(2)
    found = expected_gradients(model, x, "prob_pred", samples=400, baseline=Unlearned())
    exact = uni(model, x, steps=16, rule="gauss_legendre")
    torch.testing.assert_close(found.baseline_score, exact.baseline_score)
    assert (found.maps - exact.maps).norm() < 0.1 * exact.maps.norm()
    assert found.path_spearman is None


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"iterations": 0}, "iterations: 0 given"),
        ({"eps": 0.0}, "eps: 0.0 given, more than 0"),
        ({"eta": -1.0}, "eta: -1.0"),
        ({"mu": float("nan")}, "mu: nan"),
        ({"rule": "trapezoid", "steps": 1}, "at least 2 steps"),
    ],
)
def test_numbers_that_cannot_be(parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request("uni", **parameters)
