"""How maps differ: against scipy, scikit-image and sums by hand; laws of every number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.metrics import structural_similarity
from torch import Tensor

from gradattr.attribution.agreement import centred_ranks
from gradattr.errors import UsageError
from gradattr.metrics.map_change import map_change, ssim, stack_changes

SYMMETRIC = ("spearman", "spearman_magnitude", "top_intersection", "cosine", "ssim")


def maps(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_ties(*shape: int, seed: int = 0) -> Tensor:
    return (2 * maps(*shape, seed=seed)).round()


@pytest.mark.parametrize("make", [maps, with_ties])
def test_ranks_and_correlations_are_those_of_scipy(make: object) -> None:
    assert callable(make)
    a, b = make(5, 3, 12, 9), make(5, 3, 12, 9, seed=1)
    b = a + b
    found = map_change(a, b)
    for n in range(5):
        one, two = a[n].flatten().numpy(), b[n].flatten().numpy()
        ranks = centred_ranks(a[n : n + 1].flatten(1))[0].numpy()
        np.testing.assert_array_equal(ranks, stats.rankdata(one) - (len(one) + 1) / 2)
        expected = stats.spearmanr(one, two).statistic
        assert found.spearman[n].item() == pytest.approx(expected, abs=1e-12)
        expected = stats.spearmanr(np.abs(one), np.abs(two)).statistic
        assert found.spearman_magnitude[n].item() == pytest.approx(expected, abs=1e-12)
        cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert found.cosine[n].item() == pytest.approx(cosine, abs=1e-12)
        l2 = np.linalg.norm(two - one) / np.linalg.norm(one)
        assert found.l2[n].item() == pytest.approx(l2, rel=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (9, 7), (5, 6), (3, 40)])
def test_structural_similarity_is_that_of_scikit_image(size: tuple[int, int]) -> None:
    a = maps(3, 3, *size)
    b = a + 0.3 * maps(3, 3, *size, seed=1)
    window = min(7, min(size) - 1 + min(size) % 2)
    for n, found in enumerate(ssim(a, b).tolist()):
        one, two = ((m[n] / m[n].abs().max()).numpy() for m in (a, b))
        expected = structural_similarity(one, two, win_size=window, data_range=2, channel_axis=0)
        assert found == pytest.approx(expected, abs=1e-10)


def test_the_top_by_hand() -> None:
    a = torch.zeros(1, 2, 2, 3)
    a[0, 0] = torch.tensor([[5.0, -4.0, 3.0], [0.0, 0.1, 0.2]])
    b = torch.zeros(1, 2, 2, 3)
    b[0, 1] = torch.tensor([[1.0, 0.0, -9.0], [8.0, 0.0, 0.5]])
    assert map_change(a, b, top=3).top_intersection.item() == pytest.approx(2 / 3)
    assert map_change(a, b, top=1).top_intersection.item() == 0
    assert map_change(a, b, top=6).top_intersection.item() == 1


@pytest.mark.parametrize(("side", "count"), [(32, 102), (100, 1000), (150, 1000)])
def test_a_thousand_pixels_or_a_tenth(side: int, count: int) -> None:
    a = maps(1, 1, side, side)
    b = torch.zeros_like(a)
    order = a.abs().flatten().argsort(descending=True)
    b.view(-1)[order[: count // 2]] = 1 + torch.rand(count // 2, dtype=torch.float64)
    b.view(-1)[order[-(count - count // 2) :]] = 1.0
    assert map_change(a, b).top_intersection.item() == pytest.approx(count // 2 / count)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tied=st.booleans(),
    factor=st.sampled_from([2.0**-200, 0.5, 8.0, 2.0**200]),
)
def test_laws(seed: int, tied: bool, factor: float) -> None:
    make = with_ties if tied else maps
    a, b = make(2, 2, 8, 8, seed=seed), make(2, 2, 8, 8, seed=seed + 1)
    same = map_change(a, a)
    for name in SYMMETRIC:
        torch.testing.assert_close(getattr(same, name), torch.ones(2, dtype=torch.float64))
    assert same.l2.tolist() == [0, 0]
    there, back, scaled = map_change(a, b), map_change(b, a), map_change(a * factor, b)
    for name in SYMMETRIC:
        torch.testing.assert_close(getattr(there, name), getattr(back, name), atol=1e-12, rtol=0)
        torch.testing.assert_close(getattr(there, name), getattr(scaled, name), atol=1e-12, rtol=0)
    opposite = map_change(a, -a)
    for value, name in ((-1, "spearman"), (1, "spearman_magnitude"), (-1, "cosine")):
        assert getattr(opposite, name).tolist() == pytest.approx([value, value])
    alone = map_change(a[1:], b[1:])
    for both, one in zip(there, alone, strict=True):
        assert both[1].item() == pytest.approx(one[0].item(), abs=1e-14)


def test_random_maps_have_nothing_in_common() -> None:
    found = map_change(maps(50, 3, 32, 32), maps(50, 3, 32, 32, seed=1))
    for name in ("spearman", "spearman_magnitude", "cosine", "ssim"):
        assert abs(getattr(found, name).mean().item()) < 0.01
    assert found.top_intersection.mean().item() == pytest.approx(102 / 1024, abs=0.02)
    assert found.l2.mean().item() == pytest.approx(2**0.5, abs=0.02)


def test_large_sets_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradattr.metrics.map_change._AT_ONCE", 2 * 3 * 9 * 8 + 1)
    a, b = maps(3, 3, 9, 8), maps(3, 3, 9, 8, seed=1)
    together, alone = map_change(a, b), [map_change(a[i : i + 1], b[i : i + 1]) for i in range(3)]
    for number, column in enumerate(together):
        assert column.tolist() == [one[number].item() for one in alone]


def test_constant_maps_and_maps_that_are_not_finite_are_nan() -> None:
    good = maps(5, 1, 8, 8)
    bad = good.clone()
    bad[0], bad[1] = 0, 3
    bad[2, 0, 0, 0], bad[3, 0, 5, 5] = torch.nan, torch.inf
    for found in (map_change(good, bad), map_change(bad, good), map_change(bad, bad)):
        for column in found:
            assert column.isnan().tolist() == [True] * 4 + [False]
    signs = good.sign()
    found = map_change(signs, signs)
    assert found.spearman_magnitude.isnan().all()
    assert found.top_intersection.isnan().all()
    assert found.spearman.tolist() == pytest.approx([1] * 5)
    thin = map_change(maps(2, 1, 2, 40), maps(2, 1, 2, 40, seed=1))
    assert thin.ssim.isnan().all()
    assert not thin.spearman.isnan().any()


def test_columns_side_by_side() -> None:
    a, b = maps(4, 1, 8, 8), maps(4, 1, 8, 8, seed=1)
    stacked = stack_changes([map_change(a, b), map_change(a, a)])
    assert stacked.ssim.shape == (4, 2)
    assert stacked.l2[:, 1].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("shapes", "top", "reason"),
    [
        (((2, 1, 8, 8), (2, 3, 8, 8)), None, r"\(2, 1, 8, 8\) are compared with \(2, 3, 8, 8\)"),
        (((2, 8, 8), (2, 8, 8)), None, r"expected \(n, c, h, w\) twice"),
        (((2, 1, 8, 8), (2, 1, 8, 8)), 65, "top 65: expected 1 to the number of pixels"),
        (((2, 1, 8, 8), (2, 1, 8, 8)), 0, "top 0"),
    ],
)
def test_what_does_not_fit(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], top: int | None, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        map_change(torch.rand(shapes[0]), torch.rand(shapes[1]), top=top)
