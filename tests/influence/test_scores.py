"""Scores against their formulas, closed forms and retraining."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import MethodError
from gradattr.influence import (
    Curvature,
    GradientProducts,
    grad_cos,
    grad_dot,
    influence,
    random_scores,
    relatif,
    tfa_maps,
    tracin,
)
from tests.influence.conftest import loop_gradients

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
def test_dot_and_cosine_equal_the_loop(network: Network, examples: Examples, name: str) -> None:
    model, (x, y), (qx, qy) = network(name), examples(name, 5), examples(name, 3, seed=2)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    g, u = loop_gradients(model, x, y), loop_gradients(model, qx, qy)
    torch.testing.assert_close(
        grad_dot(products, x, y, queries).values, g @ u.T, rtol=1e-10, atol=1e-10
    )
    cosines = grad_cos(products, x, y, queries)
    expected = F.normalize(g, dim=1) @ F.normalize(u, dim=1).T
    torch.testing.assert_close(cosines.values, expected, rtol=1e-10, atol=1e-10)
    assert not cosines.undefined.any()


def test_a_zero_gradient_has_score_zero_and_a_flag() -> None:
    model = nn.Linear(2, 3).double()
    model.requires_grad_(False)
    model.weight.copy_(torch.tensor([[1e4, 0], [0, 0], [0, 0]]))
    x = torch.tensor([[1.0, 0], [0, 1]]).double()
    products = GradientProducts(model)
    y = torch.zeros(2).long()
    queries = products.directions(x[1:], y[1:])
    found = grad_cos(products, x, y, queries)
    assert found.undefined.tolist() == [[True], [False]]
    assert found.values[0].item() == 0 and found.values[1].item() == pytest.approx(1)


def test_tracin_sums_over_checkpoints(network: Network, examples: Examples) -> None:
    (x, y), (qx, qy) = examples("mlp", 4), examples("mlp", 2, seed=3)
    first, second = network("mlp"), nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).double()
    expected = sum(
        rate * loop_gradients(model, x, y) @ loop_gradients(model, qx, qy).T
        for model, rate in ((first, 0.1), (second, 0.01))
    )
    steps = [(GradientProducts(first), 0.1), (GradientProducts(second), 0.01)]
    torch.testing.assert_close(tracin(steps, x, y, qx, qy).values, expected)
    with pytest.raises(MethodError, match="at least one checkpoint"):
        tracin([], x, y, qx, qy)


def test_positive_means_helpful(network: Network, examples: Examples) -> None:
    """A small step on the training example lowers the query's loss by step * score."""
    model, (x, y), (qx, qy) = network("cnn"), examples("cnn", 3), examples("cnn", 1, seed=5)
    products = GradientProducts(model)
    score = grad_dot(products, x, y, products.directions(qx, qy)).values[:, 0]
    before = F.cross_entropy(model(qx.clone()), qy).detach()
    for image, label, value in zip(x, y, score, strict=True):
        parameters = dict(model.named_parameters())
        loss = F.cross_entropy(model(image[None].clone()), label[None])
        grads = torch.autograd.grad(loss, list(parameters.values()))
        moved = {
            name: (p - 1e-6 * g).detach()
            for (name, p), g in zip(parameters.items(), grads, strict=True)
        }
        after = F.cross_entropy(
            torch.func.functional_call(model, moved, (qx.clone(),)), qy
        ).detach()
        assert float(before - after) == pytest.approx(1e-6 * float(value), rel=1e-3)


def test_random_scores_depend_on_their_pair_alone() -> None:
    train, query = list(range(500)), [2**62 + 5, 7, 123456789]
    found = random_scores(train, query).values
    assert torch.equal(random_scores(train[7:9], query[1:2]).values, found[7:9, 1:2])
    assert found.unique().numel() == found.numel()
    assert found.min() >= -1 and found.max() < 1
    assert abs(float(found.mean())) < 0.05 and float(found.std()) == pytest.approx(
        3**-0.5, abs=0.03
    )
    assert torch.corrcoef(found.T)[0, 1].abs() < 0.15
    assert torch.corrcoef(torch.stack([found[:-1, 0], found[1:, 0]]))[0, 1].abs() < 0.15


def test_the_ridge_toy_is_exact() -> None:
    """TDA_i = x^T A^-1 x_i y_i and TFA_ij = x^T A^-1 e_j x_ij y_i, A = X^T X + lambda I: influence
    at the zero model of squared loss, and grad-dot maps of the same directions times input."""
    a, b, t, ridge = [1.5, -0.7, 2.0, 0.3], 0.8, 1.3, 0.25
    x = torch.tensor([[value, 0.0] for value in a] + [[0.0, b]], dtype=torch.float64)
    y = torch.tensor([0.0] * len(a) + [b], dtype=torch.float64)
    query = torch.tensor([[0.0, t]], dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    count = len(x)
    products = GradientProducts(model, loss=lambda f, y: (f[:, 0] - y).square() / 2)
    # The query wants a large prediction.
    want = GradientProducts(model, loss=lambda f, _: -f[:, 0]).directions(query, y[:1])
    curvature = Curvature(products, x, y, "hessian")
    scores = influence(products, x, y, want, curvature, damping=ridge / count, tolerance=1e-14)
    inverse = torch.linalg.inv(x.T @ x + ridge * torch.eye(2, dtype=torch.float64))
    tda = (x @ inverse @ query[0]) * y
    torch.testing.assert_close(scores.values[:, 0] / count, tda, rtol=1e-10, atol=1e-10)
    inverted = curvature.solve(want, ridge / count, tolerance=1e-14).directions
    pairs = [(row, 0) for row in range(count)]
    maps = tfa_maps(products, x, y, inverted, pairs, score="dot", times_input=True).values / count
    tfa = (inverse @ query[0]) * x * y[:, None]
    torch.testing.assert_close(maps, tfa, rtol=1e-10, atol=1e-10)
    assert float(maps[-1, 1]) == pytest.approx(t * b**2 / (b**2 + ridge), abs=1e-10)
    assert float(maps.abs().sum()) == pytest.approx(t * b**2 / (b**2 + ridge), abs=1e-10)


def test_relatif_ranks_as_grad_cos_for_large_damping(network: Network, examples: Examples) -> None:
    model, (x, y), (qx, qy) = network("mlp"), examples("mlp", 30), examples("mlp", 2, seed=8)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    curvature = Curvature(products, x, y)
    cosines = grad_cos(products, x, y, queries).values
    agreement = []
    for damping in (1e-2, 1e8):
        found = relatif(products, x, y, queries, curvature, damping=damping, block=16)
        agreement.append(
            min(spearmanr(found.values[:, t], cosines[:, t]).statistic for t in range(2))
        )
        assert found.report["largest_residual"] <= 1e-6
    assert agreement[1] == pytest.approx(1.0)
    assert agreement[0] < 0.99


def _fitted(x: Tensor, y: Tensor, decay: float, start: Tensor | None = None) -> nn.Linear:
    """Logistic regression, mean cross-entropy + decay/2 ||W||^2, to its minimum."""
    model = nn.Linear(x.shape[1], 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.zeros_like(model.weight) if start is None else start)
    search = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-11, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = F.cross_entropy(model(x), y) + decay / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    search.step(closure)
    return model


def test_influence_predicts_leave_one_out_retraining() -> None:
    torch.manual_seed(4)
    x = torch.randn(60, 4, dtype=torch.float64)
    y = (x @ torch.randn(4, 3).double() + 0.7 * torch.randn(60, 3).double()).argmax(1)
    qx, decay = torch.randn(3, 4, dtype=torch.float64), 0.01
    qy = torch.tensor([0, 1, 2])
    model = _fitted(x, y, decay)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    scores = {
        matrix: influence(
            products, x, y, queries, Curvature(products, x, y, matrix), damping=decay
        ).values
        for matrix in ("hessian", "gauss_newton")
    }
    torch.testing.assert_close(scores["hessian"], scores["gauss_newton"], rtol=1e-4, atol=1e-5)
    before = F.cross_entropy(model(qx), qy, reduction="none")
    change = []
    for left_out in range(60):
        rows = [row for row in range(60) if row != left_out]
        # The penalty stays what it was for 60 examples.
        other = _fitted(x[rows], y[rows], decay * 60 / 59, model.weight.detach())
        change.append(F.cross_entropy(other(qx), qy, reduction="none").detach() - before)
    actual = torch.stack(change).detach()
    for query in range(3):
        assert spearmanr(scores["hessian"][:, query], actual[:, query]).statistic > 0.95
    slope = (scores["hessian"] / 60 * actual).sum() / actual.square().sum()
    assert 0.7 < float(slope) < 1.1
