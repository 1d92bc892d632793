"""Agreement of methods against scipy, against the pairwise function, and by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from gradattr.attribution.agreement import agreement
from gradattr.errors import UsageError
from gradattr.metrics.method_agreement import mean_agreement, method_agreement


def _maps(seed: int, values: int, n: int = 3) -> list[torch.Tensor]:
    """Three channels, one, and three again; values in -values .. values; none is constant."""
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randint(-values, values + 1, (n, c, 4, 5), generator=generator).float()
        for c in (3, 1, 3)
    ]
    for each in maps:
        each[:, 0, 0, 0] = values + 10
    return maps


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), values=st.sampled_from([1, 3, 10**5]))
def test_rank_correlations_are_those_of_scipy(seed: int, values: int) -> None:
    maps = _maps(seed, values)
    found = method_agreement(maps)
    for at, a, b in product(range(3), repeat=3):
        one, other = maps[a][at].double(), maps[b][at].double()
        expected = spearmanr(one.sum(0).flatten(), other.sum(0).flatten()).statistic
        assert float(found.values[at, a, b]) == pytest.approx(expected, abs=1e-12)
        expected = spearmanr(one.abs().sum(0).flatten(), other.abs().sum(0).flatten()).statistic
        assert float(found.magnitudes[at, a, b]) == pytest.approx(expected, abs=1e-12)


def test_two_methods_are_compared_as_by_the_pairwise_function() -> None:
    one, other = torch.randn(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found, expected = method_agreement([one, other]), agreement(one, other)
    torch.testing.assert_close(found.magnitudes[:, 0, 1], expected.spearman)
    torch.testing.assert_close(found.top_overlap[:, 0, 1], expected.top_overlap)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), values=st.sampled_from([1, 3, 10**5]))
def test_laws(seed: int, values: int) -> None:
    """Symmetric with 1 on the diagonal; scale does not matter, the sign only to values; neither
    other methods nor other images have a say."""
    maps = _maps(seed, values)
    found = method_agreement(maps, top=0.2)
    for each in found:
        assert torch.equal(each, each.mT)
        assert each.diagonal(dim1=1, dim2=2).eq(1).all()
    moved = method_agreement([maps[0] * 4, -maps[1], maps[2]], top=0.2)
    assert torch.equal(moved.magnitudes, found.magnitudes)
    assert torch.equal(moved.top_overlap, found.top_overlap)
    sign = torch.tensor([[1, -1, 1], [-1, 1, -1], [1, -1, 1]])
    torch.testing.assert_close(moved.values, found.values * sign)
    swapped = method_agreement([maps[2][1:2], maps[0][1:2]], top=0.2)
    for one, other in zip(swapped, found, strict=True):
        torch.testing.assert_close(one[0, 0, 1], other[1, 0, 2])


def test_equal_pixels_at_the_last_place_count_by_chance() -> None:
    # The two highest of four: one is sure, the other is one of three equal ones.
    one = torch.tensor([9.0, 1, 1, 1]).view(1, 1, 2, 2)
    other = torch.tensor([1.0, 9, 1, 1]).view(1, 1, 2, 2)
    found = method_agreement([one, other], top=0.5).top_overlap[0]
    assert float(found[0, 1]) == pytest.approx((1 / 3 + 1 / 3 + 1 / 9 + 1 / 9) / 2)
    far = torch.tensor([0.0, 9, 8, 0]).view(1, 1, 2, 2)
    near = torch.tensor([0.0, 8, 9, 0]).view(1, 1, 2, 2)
    assert method_agreement([far, near], top=0.5).top_overlap[0, 0, 1] == 1
    assert method_agreement([far, near], top=0.25).top_overlap[0, 0, 1] == 0


def test_maps_that_rank_nothing_agree_with_nobody() -> None:
    maps = [torch.rand(4, 1, 3, 3), torch.rand(4, 1, 3, 3)]
    maps[0][0] = 0.5
    maps[0][1, 0, 0, 0] = math.nan
    maps[1][2] = torch.where(torch.rand(3, 3) < 0.5, 1.0, -1.0)
    maps[1][2, 0, 0, :2] = torch.tensor([1.0, -1.0])
    found = method_agreement(maps)
    for each in (found.magnitudes, found.top_overlap):
        assert each.isnan().sum((1, 2)).tolist() == [3, 3, 3, 0]
    assert found.values.isnan().sum((1, 2)).tolist() == [3, 3, 0, 0]
    mean = mean_agreement(found)
    assert mean.magnitudes[0, 1] == found.magnitudes[3, 0, 1]
    assert float(mean.values[0, 1]) == pytest.approx(float(found.values[2:, 0, 1].mean()))
    assert mean.values.diagonal().tolist() == [1, 1]
    assert method_agreement([torch.rand(0, 1, 2, 2)]).values.shape == (0, 1, 1)


@pytest.mark.parametrize(
    ("shapes", "top", "reason"),
    [
        ([], 0.1, "no maps were given"),
        ([(2, 1, 3, 3), (2, 1, 3, 4)], 0.1, "of the same images"),
        ([(2, 1, 3, 3), (3, 1, 3, 3)], 0.1, "of the same images"),
        ([(2, 3, 3)], 0.1, "of the same images"),
        ([(2, 1, 3, 3)], 0.0, "expected a share"),
    ],
)
def test_what_does_not_fit(shapes: list[tuple[int, ...]], top: float, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        method_agreement([torch.rand(shape) for shape in shapes], top=top)
