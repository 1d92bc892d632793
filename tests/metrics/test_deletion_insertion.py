"""Deletion and insertion against a step-by-step loop, closed forms and all orders of few pixels."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from gradattr.attribution import PlainEvaluator
from gradattr.errors import UsageError
from gradattr.metrics.deletion_insertion import Curves, deletion, insertion
from gradattr.metrics.masked_forwards import image_scores
from tests.small_classifiers import (
    Counting,
    convolutional_classifier,
    linear_classifier,
    pictures,
    random_maps,
)

SIDE, N = 6, 5
SEEDS = [11, 12, 13, 14, 15]
INDEX = torch.tensor([0, 1, 2, 3, 0])


def loop(
    model: nn.Module,
    before: Tensor,
    after: Tensor,
    scores: Tensor,
    index: Tensor,
    steps: int,
    score: str,
) -> tuple[Tensor, Tensor]:
    """One image and one step at a time; ``scores`` (n, 1 or c, h, w) without ties."""
    curves = []
    for a, b, s, c in zip(before, after, scores, index, strict=True):
        order = s.flatten().argsort(descending=True)
        curve = []
        for step in range(steps + 1):
            mask = torch.zeros(s.numel(), dtype=torch.bool)
            mask[order[: round(step * s.numel() / steps)]] = True
            with torch.no_grad():
                logits = model(torch.where(mask.view(s.shape), b, a)[None])[0]
            curve.append(float(logits[c] if score == "logit" else logits.softmax(0)[c]))
        curves.append(curve)
    values = torch.tensor(curves, dtype=torch.float64)
    shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return values, torch.trapezoid(values, shares, dim=1)


@pytest.mark.parametrize("score", ["prob", "logit"])
@pytest.mark.parametrize("per_pixel", [True, False])
@pytest.mark.parametrize(("rank", "steps", "batch_size"), [("signed", 10, 7), ("magnitude", 4, 99)])
def test_against_a_loop(
    score: str, per_pixel: bool, rank: str, steps: int, batch_size: int
) -> None:
    model, x = convolutional_classifier(), pictures(N, SIDE)
    maps = [random_maps(N, SIDE), random_maps(N, SIDE, seed=1)]
    common = {
        "seeds": SEEDS,
        "steps": steps,
        "per_pixel": per_pixel,
        "rank": rank,
        "score": score,
        "batch_size": batch_size,
    }
    fill = pictures(1, 1)  # one value per channel
    removed = deletion(PlainEvaluator(model), x, maps, INDEX, fill=fill, **common)  # type: ignore[arg-type]
    put_back = insertion(PlainEvaluator(model), x, maps, INDEX, **common)  # type: ignore[arg-type]
    blurred = gaussian_blur(x, kernel_size=[11, 11], sigma=[5.0, 5.0])
    for given, gone, back in zip(maps, removed, put_back, strict=True):
        scores = given.abs() if rank == "magnitude" else given
        scores = scores.sum(1, keepdim=True) if per_pixel else scores
        for found, before, after in ((gone, x, fill.expand_as(x)), (back, blurred, x)):
            values, auc = loop(model, before, after, scores, INDEX, steps, score)
            assert (found.values - values).abs().max() < 1e-12
            assert (found.auc - auc).abs().max() < 1e-12


def test_the_closed_form_of_a_linear_model() -> None:
    """Deletion(k) = f(x) - sum of the first contributions w (x - fill)."""
    model, weights = linear_classifier(SIDE)
    x, given = pictures(N, SIDE), random_maps(N, SIDE)
    (found,) = deletion(
        PlainEvaluator(model), x, [given], INDEX, seeds=SEEDS, fill=0.3, score="logit", batch_size=8
    )
    contributions = (weights[INDEX] * (x - 0.3)).sum(1).flatten(1)
    order = given.sum(1).flatten(1).argsort(1, descending=True)
    lost = contributions.gather(1, order).cumsum(1)
    whole = model(x).gather(1, INDEX[:, None]).detach()
    d = SIDE * SIDE
    for step in range(11):
        count = round(step * d / 10)
        expected = whole[:, 0] - (lost[:, count - 1] if count else 0)
        assert (found.values[:, step] - expected).abs().max() < 1e-12


def test_no_order_beats_the_true_one_on_a_linear_model() -> None:
    """All 720 orders of six pixels, each as a method of one call."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3).double())
    weights = model[1].weight.detach()
    x = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    index = torch.tensor([0, 2])
    orders = list(itertools.permutations(range(6)))
    maps = [torch.tensor(order).double().view(1, 1, 2, 3).repeat(2, 1, 1, 1) for order in orders]
    truth = (weights[index] * x.flatten(1)).view_as(x)
    found = deletion(
        PlainEvaluator(model),
        x,
        [truth, -truth, *maps],
        index,
        seeds=[0, 1],
        steps=6,
        score="logit",
        batch_size=512,
    )
    areas = torch.stack([curves.auc for curves in found])
    assert (areas[0] <= areas[2:].amin(0) + 1e-12).all()
    assert torch.allclose(areas[0], areas[2:].amin(0), rtol=0, atol=1e-12)
    assert torch.allclose(areas[1], areas[2:].amax(0), rtol=0, atol=1e-12)
    # and all orders together are chance: the middle between nothing and all removed
    ends = found[0].values[:, [0, -1]].mean(1)
    assert torch.allclose(areas[2:].mean(0), ends, rtol=0, atol=1e-12)


def _both(model: nn.Module, given: Tensor, score: str) -> tuple[Curves, ...]:
    """Deletion and insertion, from and to the same fill, of a map and its reverse; d = 100."""
    x = pictures(N, 10)
    common = {"seeds": SEEDS, "score": score, "batch_size": 50}
    pair = [given, -given]
    gone = deletion(PlainEvaluator(model), x, pair, INDEX, fill=0.2, **common)  # type: ignore[arg-type]
    back = insertion(PlainEvaluator(model), x, pair, INDEX, start=0.2, **common)  # type: ignore[arg-type]
    return (*gone, *back)


@pytest.mark.parametrize("score", ["prob", "logit"])
def test_deletion_is_insertion_of_the_reverse_read_backwards(score: str) -> None:
    """For any model."""
    model = convolutional_classifier()
    gone, gone_reverse, back, back_reverse = _both(model, random_maps(N, 10), score)
    assert torch.allclose(gone.values, back_reverse.values.flip(1), rtol=0, atol=1e-12)
    assert torch.allclose(gone_reverse.values, back.values.flip(1), rtol=0, atol=1e-12)
    assert torch.allclose(gone.auc, back_reverse.auc, rtol=0, atol=1e-12)


def test_a_map_and_its_reverse_are_symmetric_on_a_linear_model() -> None:
    model, _ = linear_classifier(10)
    gone, gone_reverse, back, _ = _both(model, random_maps(N, 10), "logit")
    both_ends = gone.values[:, :1] + gone.values[:, -1:]
    mirrored = gone_reverse.values.flip(1)
    assert torch.allclose(gone.values + mirrored, both_ends.expand(-1, 11), rtol=0, atol=1e-12)
    assert torch.allclose(gone.values + back.values, both_ends.expand(-1, 11), rtol=0, atol=1e-12)
    assert torch.allclose(gone.auc + gone_reverse.auc, both_ends[:, 0], rtol=0, atol=1e-12)


def test_random_maps_give_the_middle_on_a_linear_model() -> None:
    model, _ = linear_classifier(SIDE)
    n = 400
    x, index = pictures(n, SIDE), torch.arange(n) % 4
    (found,) = deletion(
        PlainEvaluator(model),
        x,
        [random_maps(n, SIDE)],
        index,
        seeds=range(n),
        score="logit",
        batch_size=512,
    )
    off = found.auc - found.values[:, [0, -1]].mean(1)
    assert abs(float(off.mean())) < 4 * float(off.std()) / n**0.5


def test_nothing_depends_on_batches_other_images_or_other_methods() -> None:
    model, x = convolutional_classifier(), pictures(N, SIDE)
    tied = random_maps(N, SIDE).relu().round()
    maps = [random_maps(N, SIDE, channels=1), tied, torch.zeros(N, 1, SIDE, SIDE)]
    for metric in (deletion, insertion):
        together = metric(PlainEvaluator(model), x, maps, INDEX, seeds=SEEDS, batch_size=64)
        for method, given in enumerate(maps):
            for image in range(N):
                one = slice(image, image + 1)
                (alone,) = metric(
                    PlainEvaluator(model),
                    x[one],
                    [given[one]],
                    INDEX[one],
                    seeds=SEEDS[one],
                    batch_size=3,
                )
                difference = alone.values - together[method].values[one]
                assert difference.abs().max() < 1e-13


def test_evaluations_are_shared_and_bounded() -> None:
    """Two methods, five images: the inner steps of each, the images once, a common fill once."""
    maps = [random_maps(N, SIDE), random_maps(N, SIDE, seed=1)]
    x = pictures(N, SIDE)
    watch = Counting(convolutional_classifier())
    deletion(watch, x, maps, INDEX, seeds=SEEDS, batch_size=4)
    assert watch.images == 2 * N * 9 + N + 1
    assert watch.largest == 4
    watch = Counting(convolutional_classifier())
    known = image_scores(watch, x, INDEX, batch_size=16)
    removed = deletion(watch, x, maps, INDEX, seeds=SEEDS, batch_size=16, unchanged=known)
    back = insertion(watch, x, maps, INDEX, seeds=SEEDS, batch_size=16, unchanged=known)
    assert watch.images == N + (2 * N * 9 + 1) + (2 * N * 9 + N)
    assert torch.equal(removed[1].values[:, 0], known)
    assert torch.equal(back[1].values[:, -1], known)


def test_float32_is_close_to_float64() -> None:
    model, x = convolutional_classifier(), pictures(N, SIDE)
    maps = [random_maps(N, SIDE).float()]
    exact = deletion(PlainEvaluator(model), x, maps, INDEX, seeds=SEEDS, batch_size=8)
    single = deletion(
        PlainEvaluator(convolutional_classifier().float()),
        x.float(),
        maps,
        INDEX,
        seeds=SEEDS,
        batch_size=8,
    )
    assert single[0].values.dtype == torch.float64
    assert (single[0].auc - exact[0].auc).abs().max() < 1e-6


def test_maps_that_are_not_finite_have_no_curve_and_spoil_no_other() -> None:
    given = random_maps(N, SIDE)
    given[1, 0, 2, 2], given[3, 1, 0, 0] = torch.nan, torch.inf
    model, x = convolutional_classifier(), pictures(N, SIDE)
    (found,) = deletion(PlainEvaluator(model), x, [given], INDEX, seeds=SEEDS, batch_size=8)
    assert found.auc.isnan().tolist() == [False, True, False, True, False]
    assert found.values.isnan().any(1).tolist() == found.auc.isnan().tolist()


def test_no_images_no_maps_one_step() -> None:
    model = convolutional_classifier()
    evaluator, x = PlainEvaluator(model), pictures(N, SIDE)
    assert deletion(evaluator, x, [], INDEX, seeds=SEEDS, batch_size=8) == []
    none = deletion(evaluator, x[:0], [x[:0]], INDEX[:0], seeds=[], batch_size=8)
    assert none[0].values.shape == (0, 11)
    (ends,) = insertion(evaluator, x, [x], INDEX, seeds=SEEDS, steps=1, batch_size=8)
    assert ends.values.shape == (N, 2)
    assert torch.allclose(ends.auc, ends.values.mean(1), rtol=0, atol=1e-15)


def test_what_does_not_fit() -> None:
    evaluator, x = PlainEvaluator(convolutional_classifier()), pictures(N, SIDE)
    maps = random_maps(N, SIDE)
    for wrong, reason in (
        ({"maps": [maps[:, :2]]}, r"maps\[0\] of shape \(5, 2, 6, 6\)"),
        ({"maps": [maps[:3]]}, r"maps\[0\] of shape \(3, 3, 6, 6\)"),
        ({"maps": [maps[:, :1]], "per_pixel": False}, "maps of one channel rank pixels"),
        ({"index": INDEX[:2]}, "a class and a seed for each of 5 images"),
        ({"seeds": [1]}, "and 1 seeds were given"),
        ({"score": "loss"}, "expected 'prob' or 'logit'"),
        ({"steps": 0}, "steps 0 were given"),
        ({"unchanged": torch.zeros(4)}, r"unchanged of shape \(4,\)"),
        ({"batch_size": 0}, "batch_size 0 was given"),
        ({"fill": torch.zeros(2, 1, 1)}, r"broadcasts over \(5, 3, 6, 6\)"),
        ({"x": x[0]}, r"x of shape \(3, 6, 6\)"),
    ):
        asked = {"x": x, "maps": [maps], "index": INDEX, "seeds": SEEDS, "batch_size": 8, **wrong}
        with pytest.raises(UsageError, match=reason):
            deletion(evaluator, **asked)  # type: ignore[arg-type]
