"""MuFidelity against a loop over subsets, and what it is on a linear model."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator
from gradattr.errors import UsageError
from gradattr.metrics.masked_forwards import image_scores
from gradattr.metrics.mu_fidelity import Cells, mu_fidelity
from tests.small_classifiers import (
    Counting,
    convolutional_classifier,
    linear_classifier,
    pictures,
    random_maps,
)

SIDE, N = 11, 4
SEEDS = [21, 22, 23, 24]
INDEX = torch.tensor([0, 1, 2, 3])


def loop(
    model: nn.Module, x: Tensor, given: Tensor, fill: Tensor, subsets: int, score: str
) -> tuple[list[float], list[float]]:
    """Cell by cell, subset by subset; the subsets themselves are the ones under test."""
    cells = Cells(x.shape[2], x.shape[3], 9)
    pearson, spearman = [], []

    def answer(image: Tensor, c: int) -> float:
        with torch.no_grad():
            logits = model(image[None])[0]
        return float(logits[c] if score == "logit" else logits.softmax(0)[c])

    for image, attribution, c, seed in zip(x, given, INDEX.tolist(), SEEDS, strict=True):
        sums, drops = [], []
        for subset in cells.subsets([seed], subsets, 0.25)[0]:
            changed, total = image.clone(), 0.0
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    cell = (row * 9 // x.shape[2]) * 9 + column * 9 // x.shape[3]
                    if subset[cell]:
                        changed[:, row, column] = fill.flatten()
                        total += float(attribution[:, row, column].sum())
            sums.append(total)
            drops.append(answer(image, c) - answer(changed, c))
        pearson.append(stats.pearsonr(sums, drops).statistic)
        spearman.append(stats.spearmanr(sums, drops).statistic)
    return pearson, spearman


@pytest.mark.parametrize("score", ["prob", "logit"])
def test_against_a_loop(score: str) -> None:
    model, x = convolutional_classifier(), pictures(N, SIDE)
    maps = [random_maps(N, SIDE), x]
    fill = pictures(1, 1)
    found = mu_fidelity(
        PlainEvaluator(model),
        x,
        maps,
        INDEX,
        seeds=SEEDS,
        subsets=30,
        fill=fill,
        score=score,  # type: ignore[arg-type]
        batch_size=7,
    )
    for given, result in zip(maps, found, strict=True):
        pearson, spearman = loop(model, x, given, fill, 30, score)
        assert result.pearson.tolist() == pytest.approx(pearson, abs=1e-12)
        assert result.spearman.tolist() == pytest.approx(spearman, abs=1e-12)
        assert torch.equal(result.absolute_pearson, result.pearson.abs())
        assert torch.equal(result.absolute_spearman, result.spearman.abs())


def test_exact_contributions_of_a_linear_model_have_one_and_their_reverse_minus_one() -> None:
    model, weights = linear_classifier(SIDE)
    x = pictures(N, SIDE)
    exact = (x - 0.4) * weights[INDEX]
    found = mu_fidelity(
        PlainEvaluator(model),
        x,
        [exact, -exact, 7 * exact],
        INDEX,
        seeds=SEEDS,
        fill=0.4,
        score="logit",
        batch_size=64,
    )
    for result, sign in zip(found, (1, -1, 1), strict=True):
        assert result.pearson.tolist() == pytest.approx([sign] * N, abs=1e-12)
        assert result.spearman.tolist() == pytest.approx([sign] * N, abs=1e-3)


def test_random_maps_have_none_on_average() -> None:
    n = 300
    found = mu_fidelity(
        PlainEvaluator(convolutional_classifier()),
        pictures(n, 9),
        [random_maps(n, 9)],
        torch.arange(n) % 4,
        seeds=range(n),
        subsets=40,
        batch_size=512,
    )
    for values in (found[0].pearson, found[0].spearman):
        assert abs(float(values.mean())) < 4 * float(values.std()) / n**0.5
        assert float(values.std()) > 0.05


@pytest.mark.parametrize(("h", "w", "rows", "columns"), [(32, 32, 9, 9), (5, 28, 5, 9)])
def test_cells_are_as_equal_as_can_be(h: int, w: int, rows: int, columns: int) -> None:
    cells = Cells(h, w, 9)
    assert (cells.rows, cells.columns) == (rows, columns)
    of_pixels = cells.of_pixels().view(h, w)
    nearest = torch.nn.functional.interpolate(
        torch.arange(rows * columns).double().view(1, 1, rows, columns), size=(h, w)
    )
    assert torch.equal(of_pixels, nearest[0, 0].long())
    sizes = of_pixels.flatten().bincount()
    assert len(sizes) == rows * columns
    assert sizes.min() >= (h // rows) * (w // columns)
    assert sizes.max() <= -(-h // rows) * -(-w // columns)


def test_subsets_have_a_quarter_of_the_cells_each_as_often_as_any() -> None:
    taken = Cells(32, 32, 9).subsets(range(20), 200, 0.25)
    assert taken.shape == (20, 200, 81)
    assert (taken.sum(2) == 20).all()
    often = taken.double().mean((0, 1))
    error = (20 / 81 * 61 / 81 / 4000) ** 0.5
    assert (often - 20 / 81).abs().max() < 4.5 * error
    assert not torch.equal(taken[0], taken[1])
    assert torch.equal(Cells(32, 32, 9).subsets([7], 200, 0.25)[0], taken[7])


def test_nothing_depends_on_batches_other_images_or_other_methods() -> None:
    evaluator, x = PlainEvaluator(convolutional_classifier()), pictures(N, SIDE)
    maps = [random_maps(N, SIDE), random_maps(N, SIDE, channels=1)]
    together = mu_fidelity(evaluator, x, maps, INDEX, seeds=SEEDS, subsets=20, batch_size=33)
    for method, given in enumerate(maps):
        for image in range(N):
            one = slice(image, image + 1)
            (alone,) = mu_fidelity(
                evaluator,
                x[one],
                [given[one]],
                INDEX[one],
                seeds=SEEDS[one],
                subsets=20,
                batch_size=3,
            )
            assert (alone.pearson - together[method].pearson[one]).abs() < 1e-12
            assert (alone.spearman - together[method].spearman[one]).abs() < 1e-12


def test_methods_share_all_evaluations() -> None:
    watch, x = Counting(convolutional_classifier()), pictures(N, SIDE)
    maps = [random_maps(N, SIDE, seed=seed) for seed in range(5)]
    unchanged = image_scores(watch, x, INDEX, batch_size=8)
    mu_fidelity(watch, x, maps, INDEX, seeds=SEEDS, subsets=20, batch_size=8, unchanged=unchanged)
    assert watch.images == N + N * 20
    assert watch.largest == 8


class _Saturated(nn.Module):
    """Says the same of every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[9.0, 1, 2, 3]]).double().expand(len(x), -1) + 0 * x.sum()


def test_what_does_not_vary_has_no_correlation() -> None:
    x = pictures(N, SIDE)
    given = random_maps(N, SIDE)
    given[1], given[2] = 0.25, 0  # the cells of 11 pixels differ in size, a constant is still none
    given[3, 0, 0, 0] = torch.nan
    asked = {"seeds": SEEDS, "subsets": 20, "batch_size": 8}
    (found,) = mu_fidelity(PlainEvaluator(convolutional_classifier()), x, [given], INDEX, **asked)  # type: ignore[arg-type]
    assert found.pearson.isnan().tolist() == [False, True, True, True]
    assert found.spearman.isnan().tolist() == [False, True, True, True]
    (found,) = mu_fidelity(PlainEvaluator(_Saturated()), x, [x], INDEX, **asked)  # type: ignore[arg-type]
    assert found.pearson.isnan().all()
    assert found.spearman.isnan().all()


def test_equal_sums_up_to_rounding_have_no_correlation() -> None:
    """Cells that cancel inside: every subset sums to zero but for rounding."""
    given = random_maps(N, 18, channels=1)
    given[:, :, 1::2] = -given[:, :, ::2]
    (found,) = mu_fidelity(
        PlainEvaluator(convolutional_classifier()),
        pictures(N, 18),
        [given * 0.1],
        INDEX,
        seeds=SEEDS,
        subsets=20,
        batch_size=8,
    )
    assert found.pearson.isnan().all()


def test_no_images() -> None:
    (found,) = mu_fidelity(
        PlainEvaluator(convolutional_classifier()),
        pictures(0, SIDE),
        [random_maps(0, SIDE)],
        INDEX[:0],
        seeds=[],
        batch_size=8,
    )
    assert found.pearson.shape == (0,)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"share": 0.0}, "0 of 81 cells"),
        ({"share": 1.0}, "81 of 81 cells"),
        ({"subsets": 1}, "subsets 1, grid 9 were given"),
        ({"grid": 0}, "grid 0 were given"),
    ],
)
def test_what_does_not_fit(wrong: dict[str, float], reason: str) -> None:
    x = pictures(N, SIDE)
    asked = {"seeds": SEEDS, "batch_size": 8, **wrong}
    with pytest.raises(UsageError, match=reason):
        mu_fidelity(PlainEvaluator(convolutional_classifier()), x, [x], INDEX, **asked)  # type: ignore[arg-type]
