"""Baselines found again: the very points that the maps were made from."""

from __future__ import annotations

import pytest
import torch

from gradattr.attribution import (
    Black,
    Blur,
    Noise,
    NoisyCopies,
    PlainEvaluator,
    Sample,
    Uniform,
    attribute,
    method_request,
)
from gradattr.attribution.baselines import Normalization
from gradattr.attribution.paths.baseline_points import baseline_points, walks_one_path

POOL = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
SPACE = Normalization.from_mean_std([0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
SEEDS = [11, 5, 8, 3, 21]
REQUESTS = [
    method_request("uni", steps=3, iterations=4),
    method_request("uni", id="far", steps=3, iterations=4, eps=2.0),
    method_request("blur_ig", steps=3),
    method_request("blur_ig", id="soft", max_sigma=1.5, steps=3),
    method_request("guided_ig", steps=3, baseline=Blur(5, 1.0)),
    *(
        method_request("integrated_gradients", id=f"ig{number}", steps=3, baseline=baseline)
        for number, baseline in enumerate([Black(), Blur(), Noise(), Uniform(), Sample(POOL)])
    ),
]


def test_the_points_have_the_confidence_that_the_maps_tell(network, images):
    evaluator, x = PlainEvaluator(network("cnn")), images(5)
    made = attribute(evaluator, x, REQUESTS, seeds=SEEDS, normalization=SPACE, batch_size=2)
    points = baseline_points(evaluator, x, REQUESTS, seeds=SEEDS, normalization=SPACE, batch_size=3)
    for one, point in zip(made, points, strict=True):
        assert point.shape == x.shape
        assert not torch.equal(point, x)
        confidence = evaluator.logits(point).softmax(1).gather(1, one.index[:, None])[:, 0]
        torch.testing.assert_close(confidence, one.baseline_confidence, rtol=1e-9, atol=0)


def test_one_search_serves_all_methods_that_start_there(network, images, monkeypatch):
    from gradattr.attribution.paths.unlearning import Unlearned

    asked = []
    find = Unlearned.find
    monkeypatch.setattr(
        Unlearned, "find", lambda self, *given: asked.append(1) or find(self, *given)
    )
    uni = [method_request("uni", id=str(steps), steps=steps) for steps in (1, 5)]
    guided = method_request("guided_ig", baseline=uni[0].source.baseline)
    first, second, third = baseline_points(
        PlainEvaluator(network("mlp")), images(2), [*uni, guided], seeds=[1, 2]
    )
    assert len(asked) == 1
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_sample_has_its_own_start_whatever_stands_beside_it(network, images):
    evaluator, x = PlainEvaluator(network("mlp")), images(4)
    whole = baseline_points(evaluator, x, REQUESTS, seeds=SEEDS[:4])
    alone = baseline_points(evaluator, x[2:3], REQUESTS, seeds=SEEDS[2:3])
    for together, single in zip(whole, alone, strict=True):
        torch.testing.assert_close(together[2:3], single, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "request_",
    [
        method_request("gradient"),
        method_request("agi"),
        method_request("gradient_shap", baseline=Black()),
        method_request("integrated_gradients", smooth=NoisyCopies(2, 0.1)),
    ],
    ids=lambda request: request.id,
)
def test_methods_without_one_path_are_refused(network, images, request_):
    assert not walks_one_path(request_)
    with pytest.raises(ValueError, match="does not walk one path"):
        baseline_points(PlainEvaluator(network("mlp")), images(1), [request_], seeds=[0])


def test_every_sample_needs_a_seed(network, images):
    with pytest.raises(ValueError, match="one each expected"):
        baseline_points(PlainEvaluator(network("mlp")), images(2), REQUESTS, seeds=[0])
