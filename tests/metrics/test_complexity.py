"""Complexity against closed forms, loops by hand, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from gradattr.errors import UsageError
from gradattr.metrics.complexity import complexity


def test_one_pixel_alone_and_all_equal() -> None:
    maps = torch.zeros(2, 2, 4, 5)
    maps[0, 1, 2, 3] = -7.0
    maps[1] = 0.5
    found = complexity(maps)
    assert found.sparseness.tolist() == pytest.approx([1 - 1 / 20, 0], abs=1e-15)
    assert found.complexity.tolist() == pytest.approx([0, math.log(20)], abs=1e-14)
    assert found.effective.tolist() == [1, 20]


@pytest.mark.parametrize("few", [1, 3, 10])
def test_a_few_equal_pixels(few: int) -> None:
    """Gini of m equal numbers among d is 1 - m/d, the entropy ln m."""
    maps = torch.zeros(1, 1, 1, 10)
    maps[..., :few] = 3.0
    found = complexity(maps)
    assert float(found.sparseness) == pytest.approx(1 - few / 10)
    assert float(found.complexity) == pytest.approx(math.log(few), abs=1e-15)
    assert float(found.effective) == few


def test_against_loops() -> None:
    maps = torch.randn(5, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    found = complexity(maps, threshold=0.3)
    for at, one in enumerate(maps.double().abs().sum(1).flatten(1).numpy()):
        # The Gini index as the mean absolute difference of all pairs over twice the mean.
        pairs = sum(abs(a - b) for a in one for b in one) / len(one) ** 2
        assert float(found.sparseness[at]) == pytest.approx(pairs / (2 * one.mean()), abs=1e-12)
        assert float(found.complexity[at]) == pytest.approx(entropy(one), abs=1e-12)
        assert float(found.effective[at]) == sum(a > 0.3 * one.max() for a in one)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    factor=st.sampled_from([-1.0, 3.0, 2.0**-120, 2.0**120]),
    c=st.integers(1, 3),
    size=st.integers(1, 6),
)
def test_laws(seed: int, factor: float, c: int, size: int) -> None:
    """Neither scale nor sign nor the order of pixels matters; nor do the other images."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-4, 5, (3, c, size, 4), generator=generator).float()
    found = complexity(maps)
    order = torch.randperm(size * 4, generator=generator)
    moved = maps.flatten(2)[:, :, order].view_as(maps)
    for other in (complexity(maps * factor), complexity(moved)):
        for one, two in zip(found, other, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12, equal_nan=True)
    alone = complexity(maps[1:2])
    for one, two in zip(found, alone, strict=True):
        torch.testing.assert_close(one[1:2], two, rtol=0, atol=1e-14, equal_nan=True)
    known = ~found.sparseness.isnan()
    pixels = size * 4
    assert (found.sparseness[known] <= 1 - 1 / pixels + 1e-12).all()
    assert (found.complexity[known] <= math.log(pixels) + 1e-12).all()
    # As many equal pixels as are not 0 would have the largest entropy.
    assert (found.complexity[known] <= found.effective[known].log() + 1e-12).all()


def test_moving_mass_to_the_largest_pixel_makes_a_map_sparser() -> None:
    maps = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 1, 2, 2)
    richer = torch.tensor([5.0, 3.0, 2.0, 0.0]).view(1, 1, 2, 2)
    one, other = complexity(maps), complexity(richer)
    assert other.sparseness > one.sparseness
    assert other.complexity < one.complexity
    assert other.effective < one.effective


def test_maps_without_scores_have_none() -> None:
    maps = torch.rand(4, 2, 3, 3)
    maps[0] = 0
    maps[1, 0, 0, 0] = math.nan
    maps[2, 1, 2, 2] = -math.inf
    for each in complexity(maps):
        assert each.dtype == torch.float64
        assert each.isnan().tolist() == [True, True, True, False]
    assert complexity(torch.zeros(0, 1, 2, 2)).sparseness.shape == (0,)


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"expected \(n, c, h, w\)"):
        complexity(torch.rand(2, 3, 3))
    with pytest.raises(UsageError, match=r"threshold 1\.0 was given"):
        complexity(torch.rand(1, 1, 2, 2), threshold=1.0)
    with pytest.raises(UsageError, match="have no pixel"):
        complexity(torch.rand(1, 1, 0, 2))


def test_numbers_of_a_real_size_are_those_of_numpy() -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, 64, 64)) ** 5
    found = complexity(torch.from_numpy(maps))
    scores = np.sort(np.abs(maps).sum(1).reshape(2, -1), axis=1)
    d = scores.shape[1]
    expected = ((2 * np.arange(1, d + 1) - d - 1) * scores).sum(1) / (d * scores.sum(1))
    assert found.sparseness.numpy() == pytest.approx(expected, abs=1e-12)
