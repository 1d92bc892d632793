"""Ranks against a sort, and ties that know nothing of the place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.errors import UsageError
from gradattr.metrics.coordinate_order import descending_ranks, known, values_to_rank
from tests.small_classifiers import random_maps


@pytest.mark.parametrize("rank", ["signed", "magnitude"])
@pytest.mark.parametrize("per_pixel", [True, False])
def test_distinct_values_against_a_sort(rank: str, per_pixel: bool) -> None:
    maps = random_maps(4, 5)
    values = values_to_rank(maps, per_pixel=per_pixel, rank=rank)  # type: ignore[arg-type]
    ranks = descending_ranks(values, [1, 2, 3, 4])
    assert ranks.shape == (4, 1 if per_pixel else 3, 5, 5)
    for row, ranked in zip(maps, ranks, strict=True):
        scores = row.abs() if rank == "magnitude" else row
        scores = (scores.sum(0) if per_pixel else scores).flatten()
        for place, coordinate in enumerate(sorted(range(len(scores)), key=lambda p: -scores[p])):
            assert ranked.flatten()[coordinate] == place


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.integers(-1, 1), min_size=9, max_size=9),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=3, max_size=3),
)
def test_any_ties_give_a_permutation_that_others_do_not_change(
    values: list[int], seeds: list[int]
) -> None:
    one = torch.tensor(values).double().view(1, 1, 3, 3)
    maps = torch.cat([one, one * -1, one * 0])
    ranks = descending_ranks(maps, seeds)
    for row, ranked in zip(maps, ranks, strict=True):
        assert sorted(ranked.flatten().tolist()) == list(range(9))
        in_order = row.flatten()[ranked.flatten().argsort()]
        assert (in_order[:-1] >= in_order[1:]).all()
    assert torch.equal(descending_ranks(maps[1:2], seeds[1:2]), ranks[1:2])


def test_ties_favour_no_corner() -> None:
    """Over many images, the first tenth of a constant map is spread over the quarters evenly."""
    images = 2000
    ranks = descending_ranks(torch.zeros(images, 1, 10, 10), range(images))
    first = (ranks[:, 0] < 10).double()
    for quarter in (first[:, :5, :5], first[:, :5, 5:], first[:, 5:, :5], first[:, 5:, 5:]):
        taken = quarter.sum((1, 2))
        error = float(taken.std()) / images**0.5
        assert abs(float(taken.mean()) - 2.5) < 4 * error


def test_what_is_not_finite_is_known() -> None:
    maps = torch.ones(3, 1, 2, 2)
    maps[1, 0, 0, 1], maps[2, 0, 1, 1] = torch.nan, -torch.inf
    assert known(maps).tolist() == [True, False, False]
    with pytest.raises(UsageError, match="'signed' or 'magnitude'"):
        values_to_rank(maps, rank="absolute")  # type: ignore[arg-type]
