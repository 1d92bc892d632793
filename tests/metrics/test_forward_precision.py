"""Forward passes in bfloat16: close to float32, and nothing else is touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator, tune
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.target import logit
from gradattr.metrics.forward_precision import Bfloat16Forwards
from tests.small_classifiers import convolutional_classifier, pictures
from tests.small_transformers import vit


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(8 * 36, 4)).eval()


def x(side: int = 6) -> Tensor:
    return pictures(5, side).float()


@pytest.mark.parametrize("tuned", [False, True])
def test_answers_are_close_and_weights_stay(tuned: bool) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    evaluator: Evaluator = tune(model, x()) if tuned else PlainEvaluator(model)
    exact, index = evaluator.logits(x()), torch.tensor([0, 1, 2, 3, 0])
    fast = Bfloat16Forwards(evaluator)
    found = fast.logits(x())
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) < 0.02
    assert torch.equal(evaluator.logits(x()), exact)
    assert fast.network is evaluator.network
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    here, there = (one.gradients(one.stem(x()), index, logit) for one in (evaluator, fast))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    torch.testing.assert_close(fast.logits_and_gradients(fast.stem(x()), ())[0], exact)
    shape = x().shape
    assert torch.equal(fast.pullback(there[1], shape), evaluator.pullback(here[1], shape))


def test_nothing_is_in_bfloat16_around_it() -> None:
    fast = Bfloat16Forwards(PlainEvaluator(network()))
    fast.logits(x())
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(3, 3) @ torch.ones(3, 3)).dtype == torch.float32


def test_a_transformer() -> None:
    model = copy.deepcopy(vit()).float()
    images = x(32)
    exact = tune(model, images)
    found = Bfloat16Forwards(exact).logits(images)
    torch.testing.assert_close(found, exact.logits(images), rtol=0.05, atol=0.05)
    assert not torch.equal(found, exact.logits(images))


def test_a_model_in_float64_stays_in_it() -> None:
    """Autocast leaves it alone, and so must its weights be left."""
    evaluator = PlainEvaluator(convolutional_classifier())
    found = Bfloat16Forwards(evaluator).logits(pictures(2, 6))
    torch.testing.assert_close(found, evaluator.logits(pictures(2, 6)).float())
