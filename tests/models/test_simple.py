"""The margin output behaves under tuning, mixed precision and saving as any other layer."""

from __future__ import annotations

import copy

import pytest
import torch

from gradattr.attribution import PlainEvaluator, tune
from gradattr.attribution.target import cross_entropy, logit
from gradattr.models import simple

SHAPE = (2, 4, 5)
MODELS = {
    "linear": lambda: simple.linear(SHAPE, 2, "margin"),
    "mlp": lambda: simple.mlp(SHAPE, 2, [32, 16], "margin"),
}


def make(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MODELS[name]().eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("objective", [logit, cross_entropy])
def test_tuned_margin_model_equals_the_plain_one(name, objective):
    model = make(name).double()
    x = torch.randn(6, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index = torch.arange(6) % 2
    tuned, plain = tune(model, x[:2]), PlainEvaluator(copy.deepcopy(model))
    assert set(tuned.report["steps"]) == {"trace", "stem"}
    results = []
    for evaluator in (tuned, plain):
        values, grads, logits = evaluator.gradients(evaluator.stem(x), index, objective)
        results.append((values, evaluator.pullback(grads, x.shape), logits))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(tuned.logits(x), model(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_margin_model_without_the_affine_front_split_off(name):
    model, x = make(name), torch.randn(3, *SHAPE)
    tuned = tune(model, x, split=False, precision="mixed")
    torch.testing.assert_close(tuned.logits(x), model(x), rtol=1e-5, atol=1e-6)


def test_weights_of_a_margin_model_are_those_of_its_layers():
    model, other = make("mlp"), MODELS["mlp"]()
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, *SHAPE)
    assert torch.equal(other(x), model(x))
