"""TFA maps against the double-backward definition, finite differences and laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import MethodError
from gradattr.influence import (
    Curvature,
    Ekfac,
    GradientProducts,
    grad_cos,
    tfa_maps,
    tracin,
    tracin_maps,
)
from gradattr.influence.fallback import plain_attention
from gradattr.influence.maps import NoisyCopies, Row, blocks
from tests.influence.conftest import SHAPES

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


def by_definition(model: nn.Module, x: Tensor, y: Tensor, u: Tensor, score: str) -> Tensor:
    """d S / d x for one image, S from the gradient of every parameter."""
    leaf = x[None].clone().requires_grad_()
    with plain_attention():
        loss = F.cross_entropy(model(leaf.clone()), y[None])
        grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    g = torch.cat([grad.flatten() for grad in grads])
    value = g @ u if score == "dot" else F.cosine_similarity(g, u, dim=0)
    return torch.autograd.grad(value, leaf)[0][0]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("score", ["cos", "dot"])
def test_maps_equal_double_backward(
    network: Network, examples: Examples, name: str, score: Any
) -> None:
    model, (x, y), (qx, qy) = network(name), examples(name, 3), examples(name, 2, seed=1)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    pairs = [(0, 1), (2, 0), (0, 0)]
    found = tfa_maps(products, x, y, queries, pairs, score=score)
    flat = queries.flat()
    for value, (image, query) in zip(found.values, pairs, strict=True):
        expected = by_definition(model, x[image], y[image], flat[query], score)
        assert (value - expected).abs().max() <= 1e-10 * expected.abs().max()
    if score == "cos":
        scores = grad_cos(products, x, y, queries).values
        torch.testing.assert_close(found.scores, torch.stack([scores[i, t] for i, t in pairs]))


def test_maps_equal_finite_differences(network: Network, examples: Examples) -> None:
    model, (x, y) = network("vit"), examples("vit", 3)
    products = GradientProducts(model)
    queries = products.directions(x[1:2], y[1:2])
    found = tfa_maps(products, x, y, queries, [(0, 0)]).values[0].flatten()
    step = 1e-5
    for place in (0, 77, 300, 767):
        change = torch.zeros(768, dtype=x.dtype)
        change[place] = step
        ends = torch.stack([x[0] + sign * change.view_as(x[0]) for sign in (1, -1)])
        up, down = grad_cos(products, ends, y[[0, 0]], queries).values[:, 0]
        assert float((up - down) / (2 * step)) == pytest.approx(float(found[place]), rel=1e-6)


@pytest.fixture(scope="module")
def small() -> tuple[GradientProducts, Tensor, Tensor]:
    torch.manual_seed(11)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(48, 3)
    )
    return GradientProducts(model.double()), torch.randn(4, 1, 6, 6).double(), torch.arange(4) % 3


@given(
    batch=st.integers(1, 12),
    copies=st.integers(1, 4),
    chosen=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=5),
)
@settings(max_examples=20, deadline=None)
def test_neither_batch_size_nor_other_pairs_matter(
    small: tuple[GradientProducts, Tensor, Tensor],
    batch: int,
    copies: int,
    chosen: list[tuple[int, int]],
) -> None:
    products, x, y = small
    queries = products.directions(x[:2], y[:2])
    seeds = [100 + image for image, _ in chosen]
    options: dict[str, Any] = {"copies": copies, "sigma": 0.3}
    together = tfa_maps(products, x, y, queries, chosen, seeds=seeds, batch_size=batch, **options)
    for number, (pair, seed) in enumerate(zip(chosen, seeds, strict=True)):
        alone = tfa_maps(products, x, y, queries, [pair], seeds=[seed], **options)
        for one, other in ((alone.values, together.values), (alone.scores, together.scores)):
            torch.testing.assert_close(one[0], other[number], rtol=1e-10, atol=1e-12)


def test_smoothgrad_is_the_mean_over_its_copies(
    small: tuple[GradientProducts, Tensor, Tensor],
) -> None:
    products, x, y = small
    queries = products.directions(x[:1], y[:1])
    sigma = torch.tensor([0.2]).view(1, 1, 1)
    found = tfa_maps(products, x, y, queries, [(2, 0)], copies=3, sigma=sigma, seeds=[9])
    noisy = NoisyCopies(3, sigma).of(x, [Row(2, 9, copy) for copy in range(3)])
    each = tfa_maps(products, noisy, y[[2, 2, 2]], queries, [(0, 0), (1, 0), (2, 0)])
    torch.testing.assert_close(found.values[0], each.values.mean(0))
    torch.testing.assert_close(found.scores[0], each.scores.mean())
    assert (noisy - x[2]).std() == pytest.approx(0.2, rel=0.2)


def test_one_copy_without_noise_is_the_plain_map(
    small: tuple[GradientProducts, Tensor, Tensor],
) -> None:
    products, x, y = small
    queries = products.directions(x[:2], y[:2])
    pairs = [(3, 0), (1, 1)]
    plain = tfa_maps(products, x, y, queries, pairs).values
    one = tfa_maps(products, x, y, queries, pairs, copies=1, sigma=0.0, seeds=[5, 6]).values
    assert torch.equal(one, plain)
    times = tfa_maps(products, x, y, queries, pairs, times_input=True).values
    assert torch.equal(times, plain * x[[3, 1]])
    noisy = tfa_maps(products, x, y, queries, pairs, sigma=0.5, seeds=[5, 6]).values
    other = tfa_maps(products, x, y, queries, pairs, sigma=0.5, seeds=[7, 6]).values
    assert not torch.equal(noisy[0], other[0]) and torch.equal(noisy[1], other[1])


def test_pairs_share_passes_where_image_seed_and_queries_agree() -> None:
    found = blocks([(0, 1), (5, 0), (0, 2), (5, 1), (3, 1), (3, 2)], [7, 8, 7, 9, 7, 7])
    assert [(block.queries, block.images) for block in found] == [
        ((1, 2), [(0, 7), (3, 7)]),
        ((0,), [(5, 8)]),
        ((1,), [(5, 9)]),
    ]
    assert [len(rows) for rows in found[0].batches(copies=3, size=4)] == [4, 2]


def test_tracin_maps_sum_over_checkpoints(network: Network, examples: Examples) -> None:
    (x, y), (qx, qy) = examples("mlp", 3), examples("mlp", 2, seed=6)
    models = network("mlp"), nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()).double()
    pairs, rates = [(2, 0), (0, 1)], (0.1, 0.03)
    steps, flat = [], []
    for model, rate in zip(models, rates, strict=True):
        products = GradientProducts(model)
        queries = products.directions(qx, qy)
        steps.append((products, queries, rate))
        flat.append(queries.flat())
    noise: dict[str, Any] = {"copies": 2, "sigma": 0.2, "seeds": [5, 5]}
    plain, noisy = tracin_maps(steps, x, y, pairs), tracin_maps(steps, x, y, pairs, **noise)
    scores = tracin([(p, rate) for p, _, rate in steps], x, y, qx, qy).values
    torch.testing.assert_close(plain.scores, torch.stack([scores[i, t] for i, t in pairs]))
    copies = NoisyCopies(2, 0.2)
    for number, (image, query) in enumerate(pairs):

        def expected(point: Tensor, image: int = image, query: int = query) -> Tensor:
            parts = zip(models, rates, flat, strict=True)
            return sum(
                rate * by_definition(model, point, y[image], u[query], "dot")
                for model, rate, u in parts
            )

        torch.testing.assert_close(plain.values[number], expected(x[image]))
        points = copies.of(x, [Row(image, 5, copy) for copy in range(2)])
        mean = torch.stack([expected(point) for point in points]).mean(0)
        torch.testing.assert_close(noisy.values[number], mean)
    with pytest.raises(MethodError, match="at least one checkpoint"):
        tracin_maps([], x, y, pairs)


def test_maps_of_influence_are_dot_maps_of_solved_directions(
    network: Network, examples: Examples
) -> None:
    model, (x, y), (qx, qy) = network("mlp"), examples("mlp", 6), examples("mlp", 1, seed=6)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    for solved in (
        Ekfac.fit(products, (x, y)).solve(queries, 0.01),
        Curvature(products, x, y).solve(queries, 0.01).directions,
    ):
        found = tfa_maps(products, x, y, solved, [(3, 0)], score="dot")
        expected = by_definition(model, x[3], y[3], solved.flat()[0], "dot")
        torch.testing.assert_close(found.values[0], expected)
        assert float(found.scores) == pytest.approx(float(products.dots(x, y, solved)[3]))


def test_a_zero_gradient_is_flagged() -> None:
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    products = GradientProducts(model, loss=lambda f, y: f[:, 0])
    x = torch.tensor([[-1.0, -1, -1, -1], [1, 2, 3, 4]]).double()
    y = torch.zeros(2).long()
    queries = products.directions(x[1:], y[1:])
    found = tfa_maps(products, x, y, queries, [(0, 0), (1, 0)])
    assert found.undefined.tolist() == [True, False]
    assert found.scores.tolist() == pytest.approx([0.0, 1.0])
    assert torch.equal(found.values[0], torch.zeros(4).double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [(9, 0)]}, r"pair \(9, 0\) does not exist"),
        ({"score": "sum"}, "'sum'"),
        ({"copies": 0}, "0 noisy copies"),
        ({"seeds": [1, 2]}, "2 seeds were given for 1 pairs"),
    ],
)
def test_arguments_that_do_not_fit(
    small: tuple[GradientProducts, Tensor, Tensor], change: dict[str, Any], message: str
) -> None:
    products, x, y = small
    queries = products.directions(x[:1], y[:1])
    with pytest.raises(MethodError, match=message):
        tfa_maps(products, x, y, queries, **{"pairs": [(0, 0)], **change})


def test_no_pairs_no_maps(small: tuple[GradientProducts, Tensor, Tensor]) -> None:
    products, x, y = small
    found = tfa_maps(products, x, y, products.directions(x[:1], y[:1]), [])
    assert found.values.shape == (0, 1, 6, 6)
