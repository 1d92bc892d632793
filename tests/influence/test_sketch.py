"""The count sketch against its definition, and what it is good for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradattr.errors import MethodError
from gradattr.influence import (
    CountSketch,
    GradientProducts,
    candidates,
    estimated_cosines,
    estimated_dots,
    grad_cos,
    grad_dot,
)

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


def _clustered(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images around a few prototypes, so that some gradients are much alike, as in real data."""
    torch.manual_seed(1)
    prototypes = 2 * torch.randn(12, 1, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 12, (count,), generator=generator)
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    return prototypes[kind] + noise, kind % 5


def test_a_sketch_is_a_signed_sum_over_buckets(network: Network, examples: Examples) -> None:
    """Linear in the gradient, so unit vectors show buckets and signs; examples obey the same."""
    model, (x, y) = network("cnn"), examples("cnn", 3)
    products = GradientProducts(model)
    sketch = CountSketch(products, buckets=64, seed=3)
    directions = products.directions(x, y)
    ones = directions.like(torch.eye(directions.flat().shape[1], dtype=torch.float64))
    table = sketch.of_directions(ones).values.double()
    assert torch.equal(table.abs().sum(1), torch.ones(len(table)).double())
    assert 0.4 < float((table.sum(1) > 0).double().mean()) < 0.6
    found = sketch.of_examples(x, y, directions)
    expected = directions.flat() @ table / directions.norms()[:, None]
    torch.testing.assert_close(found.values.double(), expected, rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(found.norms, directions.norms())
    assert found.dots is not None
    torch.testing.assert_close(found.dots, products.dots(x, y, directions))
    again = CountSketch(GradientProducts(model, batch_size=1), buckets=64, seed=3)
    torch.testing.assert_close(again.of_examples(x, y).values, found.values, rtol=2e-3, atol=1e-5)
    other = CountSketch(products, buckets=64, seed=4).of_examples(x, y)
    assert not torch.equal(other.values, found.values)


def test_errors_are_as_small_as_the_theory_says() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 5))
    (x, y), (qx, qy) = _clustered(200, 0), _clustered(10, 1)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    sketch = CountSketch(products, buckets=1024)
    train, query = sketch.of_examples(x, y), sketch.of_directions(queries)
    exact = grad_cos(products, x, y, queries).values
    error = estimated_cosines(train, query) - exact
    assert float((error / ((1 + exact.square()) / 1024).sqrt()).std()) == pytest.approx(1, abs=0.35)
    assert abs(float(error.mean())) < 0.01
    dots = grad_dot(products, x, y, queries).values
    assert float((estimated_dots(train, query) - dots).abs().mean() / dots.abs().mean()) < 0.25


def test_best_candidates_rescored_have_the_best_examples() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 5))
    (x, y), (qx, qy) = _clustered(1000, 0), _clustered(6, 1)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    sketch = CountSketch(products)
    found = candidates(
        estimated_cosines(sketch.of_examples(x, y), sketch.of_directions(queries)), 50
    )
    assert found.shape == (6, 100)
    exact = grad_cos(products, x, y, queries).values
    for side in (True, False):
        best = exact.T.topk(20, dim=1, largest=side).indices
        recall = (best[:, :, None] == found[:, None]).any(2).double().mean()
        assert recall >= 0.95


def test_small_training_sets_are_all_candidates() -> None:
    assert torch.equal(candidates(torch.randn(5, 2), 3), torch.arange(5).expand(2, -1))


def test_a_zero_gradient_has_a_zero_sketch() -> None:
    model = nn.Linear(4, 1, bias=False)
    products = GradientProducts(model, loss=lambda f, _: f[:, 0])
    x = torch.stack([torch.zeros(4), torch.ones(4)])
    found = CountSketch(products).of_examples(x, torch.zeros(2).long())
    assert found.values.isfinite().all()
    assert found.norms.tolist() == [0.0, 2.0]
    assert found.values[0].abs().sum() == 0
    assert found.values.dtype == torch.float16 and found.values.shape == (2, 4096)


def test_no_buckets() -> None:
    with pytest.raises(MethodError, match="0 buckets"):
        CountSketch(GradientProducts(nn.Linear(2, 2)), buckets=0)
