"""ROAD against one image and one percentage at a time; a map and its reverse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradattr.attribution import PlainEvaluator
from gradattr.attribution.noise import standard_normal
from gradattr.errors import UsageError
from gradattr.metrics.imputation import impute
from gradattr.metrics.road import PERCENTAGES, road
from tests.small_classifiers import (
    Counting,
    convolutional_classifier,
    linear_classifier,
    pictures,
    random_maps,
)

SIDE, N = 7, 4
SEEDS = [31, 32, 33, 34]
INDEX = torch.tensor([0, 1, 2, 3])
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize("score", ["prob", "logit"])
def test_against_a_loop(score: str) -> None:
    model, x = convolutional_classifier(), pictures(N, SIDE)
    maps = [random_maps(N, SIDE), random_maps(N, SIDE, channels=1)]
    found = road(
        PlainEvaluator(model),
        x,
        maps,
        INDEX,
        LABELS,
        seeds=SEEDS,
        noise=0.05,
        score=score,  # type: ignore[arg-type]
        batch_size=5,
    )
    for given, result in zip(maps, found, strict=True):
        for n in range(N):
            order = given[n].sum(0).flatten().argsort(descending=True)
            drawn = standard_normal(x[n : n + 1], [SEEDS[n]], "noise of filled-in pixels")
            for k, percentage in enumerate(PERCENTAGES):
                count = round(percentage * 49 / 100)
                for first, scores, correct in (
                    (order[:count], result.morf, result.morf_correct),
                    (order[49 - count :], result.lerf, result.lerf_correct),
                ):
                    gone = torch.zeros(49, dtype=torch.bool)
                    gone[first] = True
                    gone = gone.view(1, SIDE, SIDE)
                    filled = impute(x[n : n + 1], gone) + gone[:, None] * (0.05 * drawn)
                    with torch.no_grad():
                        logits = model(filled)[0]
                    answer = logits if score == "logit" else logits.softmax(0)
                    assert abs(float(scores[n, k] - answer[INDEX[n]])) < 1e-12
                    assert float(correct[n, k]) == float(logits.argmax() == LABELS[n])
        expected = ((result.lerf - result.morf) / 2).mean(1)
        assert torch.allclose(result.score, expected, rtol=0, atol=1e-15)


def test_a_map_and_its_reverse_have_opposite_scores() -> None:
    """For any model: the curves change places."""
    given = random_maps(N, SIDE)
    there, back = road(
        PlainEvaluator(convolutional_classifier()),
        pictures(N, SIDE),
        [given, -given],
        INDEX,
        seeds=SEEDS,
        batch_size=64,
    )
    assert torch.allclose(there.morf, back.lerf, rtol=0, atol=1e-13)
    assert torch.allclose(there.lerf, back.morf, rtol=0, atol=1e-13)
    assert torch.allclose(there.score, -back.score, rtol=0, atol=1e-13)


def test_the_true_ranking_is_good_and_a_random_one_is_chance() -> None:
    """Images that are 0 but for bright spots: a linear model loses what the spots give."""
    n = 60
    x = (pictures(n, 9) > 0.9).double()
    model, weights = linear_classifier(9)
    index = torch.arange(n) % 4
    truth = (weights[index] * (x - x.mean((2, 3), keepdim=True))).sum(1, keepdim=True)
    good, chance = road(
        PlainEvaluator(model),
        x,
        [truth, random_maps(n, 9)],
        index,
        seeds=range(n),
        score="logit",
        batch_size=64,
    )
    assert abs(float(chance.score.mean())) < 4 * float(chance.score.std()) / n**0.5
    assert (good.score > 0).double().mean() > 0.95
    assert good.score.mean() > 5 * chance.score.mean().abs()


def test_a_constant_image_is_the_same_whatever_is_removed() -> None:
    x = pictures(N, 1).expand(-1, -1, SIDE, SIDE).contiguous()
    model = convolutional_classifier()
    (found,) = road(
        PlainEvaluator(model),
        x,
        [random_maps(N, SIDE)],
        INDEX,
        seeds=SEEDS,
        noise=0,
        batch_size=16,
    )
    with torch.no_grad():
        scores = model(x).softmax(1)[torch.arange(N), INDEX]
        right = (model(x).argmax(1) == INDEX).double()
    for values in (found.morf, found.lerf):
        assert torch.allclose(values, scores[:, None].expand(-1, 9), rtol=0, atol=1e-12)
    # without labels a prediction is correct where it is the class explained
    assert torch.equal(found.morf_correct, right[:, None].expand(-1, 9))
    assert found.score.abs().max() < 1e-12


def test_nothing_depends_on_batches_other_images_or_other_methods() -> None:
    evaluator, x = PlainEvaluator(convolutional_classifier()), pictures(N, SIDE)
    maps = [random_maps(N, SIDE, seed=1), random_maps(N, SIDE).relu().round()]
    together = road(evaluator, x, maps, INDEX, seeds=SEEDS, batch_size=50)
    for method, given in enumerate(maps):
        for n in range(N):
            one = slice(n, n + 1)
            (alone,) = road(
                evaluator, x[one], [given[one]], INDEX[one], seeds=SEEDS[one], batch_size=4
            )
            for found, expected in zip(alone, together[method], strict=True):
                assert (found - expected[one]).abs().max() < 1e-12


def test_micro_batches_and_maps_that_are_not_finite() -> None:
    watch = Counting(convolutional_classifier())
    given = random_maps(N, SIDE)
    given[2, 1, 0, 0] = torch.nan
    (found,) = road(
        watch,
        pictures(N, SIDE),
        [given],
        INDEX,
        seeds=SEEDS,
        percentages=[0, 25, 50],
        batch_size=10,
    )
    assert (watch.images, watch.largest) == (N * 2 * 3, 10)
    for values in found:
        missing = values.isnan() if values.dim() == 1 else values.isnan().all(1)
        assert missing.tolist() == [False, False, True, False]
    kept = torch.tensor([0, 1, 3])
    assert torch.allclose(found.morf[kept, 0], found.lerf[kept, 0], rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"percentages": []}, r"percentages \[\]"),
        ({"percentages": [50, 100]}, "leave at least one pixel"),
        ({"percentages": [-5]}, "expected percentages from 0"),
        ({"noise": -0.1}, "no negative noise"),
    ],
)
def test_what_does_not_fit(wrong: dict[str, object], reason: str) -> None:
    x = pictures(N, SIDE)
    asked = {"seeds": SEEDS, "batch_size": 8, **wrong}
    with pytest.raises(UsageError, match=reason):
        road(PlainEvaluator(nn.Identity()), x, [x], INDEX, **asked)  # type: ignore[arg-type]
