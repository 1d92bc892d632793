"""Scalar products and norms against a float64 loop over examples."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradattr.errors import MethodError, ModelError
from gradattr.influence import Directions, GradientProducts
from tests.influence.conftest import SHAPES, loop_gradients

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


def close(found: Tensor, expected: Tensor, relative: float = 1e-10) -> bool:
    return bool((found - expected).abs().max() <= relative * expected.abs().max())


@pytest.mark.parametrize("name", SHAPES)
def test_products_and_norms_equal_the_loop(network: Network, examples: Examples, name: str) -> None:
    model, (x, y), (qx, qy) = network(name), examples(name, 5), examples(name, 2, seed=1)
    products = GradientProducts(model, batch_size=3)
    queries = products.directions(qx, qy)
    dots, norms = products.dots_and_norms(x, y, queries)
    gradients, oracle = loop_gradients(model, x, y), loop_gradients(model, qx, qy)
    assert close(queries.flat(), oracle)
    assert close(queries.norms(), oracle.norm(dim=1))
    assert close(dots, gradients @ oracle.T)
    assert close(norms, gradients.norm(dim=1))
    assert products.report["fallback"] == []
    assert products.report["verified_in"] == "float64"


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
def test_alone_as_together(network: Network, examples: Examples, name: str) -> None:
    """Other forms are cheaper when only one of the two is asked for, or for one query."""
    model, (x, y), (qx, qy) = network(name), examples(name, 4), examples(name, 1, seed=1)
    products = GradientProducts(model)
    queries = products.directions(qx, qy)
    dots, norms = products.dots_and_norms(x, y, queries)
    assert close(products.dots(x, y, queries), dots)
    assert close(products.norms(x, y), norms)


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
def test_float32_is_close_to_float64(network: Network, examples: Examples, name: str) -> None:
    model, (x, y), (qx, qy) = network(name), examples(name, 6), examples(name, 3, seed=1)
    single = GradientProducts(copy.deepcopy(model).float())
    found = single.dots(x.float(), y, single.directions(qx.float(), qy)).double()
    expected = loop_gradients(model, x, y) @ loop_gradients(model, qx, qy).T
    lengths = loop_gradients(model, x, y).norm(dim=1)[:, None] * loop_gradients(model, qx, qy).norm(
        dim=1
    )
    assert ((found - expected).abs() <= 1e-6 * lengths).all()


@given(batch=st.integers(1, 9), count=st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_any_batch_size_gives_the_same(batch: int, count: int) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x, y = torch.randn(count, 1, 4, 4).double(), torch.arange(count) % 3
    whole, parts = GradientProducts(model), GradientProducts(model, batch_size=batch)
    queries = whole.directions(x[:1], y[:1])
    for one, other in zip(
        whole.dots_and_norms(x, y, queries), parts.dots_and_norms(x, y, queries), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_subset_of_the_parameters(network: Network, examples: Examples) -> None:
    model, (x, y) = network("cnn"), examples("cnn", 4)
    for patterns in (["14.*"], ["1.weight", "3.*"], ["0.bias"]):
        products = GradientProducts(model, parameters=patterns)
        expected = loop_gradients(model, x, y, products.names)
        queries = products.directions(x, y)
        assert close(queries.flat(), expected)
        assert close(products.dots(x, y, queries), expected @ expected.T)
        assert close(products.norms(x, y), expected.norm(dim=1))
    assert products.names == ["0.bias"]


def test_a_pattern_without_a_match_is_named(network: Network) -> None:
    with pytest.raises(MethodError, match=r"no parameter matches 'head\.\*'"):
        GradientProducts(network("mlp"), parameters=["*", "head.*"])


def test_the_model_is_left_as_it_was(network: Network, examples: Examples) -> None:
    model, (x, y) = network("cnn"), examples("cnn", 3)
    model.train()
    before, kept = {k: v.clone() for k, v in model.state_dict().items()}, x.clone()
    products = GradientProducts(model)
    products.norms(x, y)
    assert model.training
    model.eval()
    assert torch.equal(x, kept)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in products.model.modules())


@pytest.mark.parametrize("target", ["loss_pred", "logit_true", "logit_pred"])
def test_targets_of_the_query(network: Network, examples: Examples, target: str) -> None:
    model, (x, y) = network("mlp"), examples("mlp", 2)
    found = GradientProducts(model).directions(x, y, target).flat()
    for row, image, label in zip(found, x, y, strict=True):
        outputs = model(image[None])[0]
        chosen = outputs.argmax() if target.endswith("pred") else label
        value = -outputs[chosen]
        if target == "loss_pred":
            value = value + outputs.logsumexp(0)
        grads = torch.autograd.grad(value, list(model.parameters()))
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in grads]))


def test_an_unknown_target_is_refused(network: Network, examples: Examples) -> None:
    with pytest.raises(MethodError, match="'prob'"):
        GradientProducts(network("mlp")).directions(*examples("mlp", 1), "prob")


def test_a_loss_of_ones_own(network: Network, examples: Examples) -> None:
    model, (x, _) = network("mlp"), examples("mlp", 3)
    y = torch.randn(3, 5, dtype=torch.float64)
    products = GradientProducts(model, loss=lambda f, y: (f - y).square().sum(1))
    for row, image, goal in zip(products.directions(x, y).flat(), x, y, strict=True):
        loss = (model(image[None])[0] - goal).square().sum()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in grads]))


def test_models_that_mix_examples_are_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()
    )
    with pytest.raises(ModelError, match="mixes the examples"):
        GradientProducts(model).norms(torch.randn(4, 1, 4, 4), torch.zeros(4).long())


def test_numbers_of_examples_and_labels_have_to_agree(network: Network) -> None:
    with pytest.raises(MethodError, match="4 examples and 3 labels"):
        GradientProducts(network("mlp")).norms(torch.zeros(4, 1, 8, 8), torch.zeros(3).long())


def test_directions_can_be_cut_joined_and_scaled(network: Network, examples: Examples) -> None:
    """Also with the factors that some of them keep: a linear layer's here."""
    model, (x, y) = network("mlp"), examples("mlp", 4)
    products = GradientProducts(model)
    whole = products.directions(x, y)
    assert whole.factors
    expected = products.dots(x, y, whole)
    parts = [whole.rows(slice(0, 1)), whole.rows(slice(1, 4))]
    torch.testing.assert_close(
        torch.cat([products.dots(x, y, part) for part in parts], 1), expected
    )
    joined = Directions.joined(parts)
    assert len(joined) == 4
    torch.testing.assert_close(products.dots(x, y, joined), expected)
    factors = torch.tensor([1.0, -2.0, 0.0, 0.5])
    torch.testing.assert_close(products.dots(x, y, whole.scaled(factors)), expected * factors)
    torch.testing.assert_close(products.dots(x, y, whole.like(whole.flat())), expected)


def test_the_largest_written_down_is_bounded(
    network: Network, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget of nothing every layer goes example by example, to the same result."""
    model, (x, y) = network("cnn"), examples("cnn", 4)
    products = GradientProducts(model)
    queries = products.directions(x[:2], y[:2])
    expected = products.dots_and_norms(x, y, queries)
    monkeypatch.setattr("gradattr.influence.layers.CHUNK_BYTES", 1)
    for one, other in zip(products.dots_and_norms(x, y, queries), expected, strict=True):
        assert close(one, other)
