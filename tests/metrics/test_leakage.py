"""Leakage against a sort by hand, and exactness where scores tie."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.errors import UsageError
from gradattr.metrics.leakage import leakage
from gradattr.retraining.ranks import kept_count

LEVELS = (0.05, 0.1, 0.3, 0.5, 1.0)


def test_distinct_scores_against_a_sort() -> None:
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((6, 3, 7, 5))
    masks = rng.random((6, 7, 5)) < 0.4
    found = leakage(torch.from_numpy(maps).float(), torch.from_numpy(masks), LEVELS)
    for n in range(6):
        scores = np.abs(maps[n].astype(np.float32).astype(np.float64)).sum(0).ravel()
        order = np.argsort(-scores)
        inside = masks[n].ravel()
        for at, level in enumerate(LEVELS):
            top = order[: max(1, kept_count(35, level))]
            assert found.shares[n, at].item() == pytest.approx(inside[top].mean(), abs=1e-12)
        expected = scores[inside].sum() / scores.sum()
        assert found.mass_ratio[n].item() == pytest.approx(expected, rel=1e-12)
        assert found.region_share[n].item() == pytest.approx(inside.mean())


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(0, 2), min_size=6, max_size=6).filter(any),
    marked=st.lists(st.booleans(), min_size=6, max_size=6),
    level=st.floats(0.01, 1),
)
def test_ties_count_with_their_mean_over_all_orders(
    scores: list[int], marked: list[bool], level: float
) -> None:
    kept = max(1, kept_count(6, level))
    shares = []
    for order in itertools.permutations(range(6)):
        ranked = sorted(order, key=lambda p: -scores[p])  # stable: ties stand in this order
        shares.append(sum(marked[p] for p in ranked[:kept]) / kept)
    maps = torch.tensor(scores).float().view(1, 1, 2, 3)
    found = leakage(maps, torch.tensor(marked).view(1, 2, 3), [level])
    assert found.shares.item() == pytest.approx(sum(shares) / len(shares), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    factor=st.sampled_from([-1.0, 2.0**-100, 4.0, 2.0**100]),
    c=st.integers(1, 3),
)
def test_laws(seed: int, factor: float, c: int) -> None:
    """Scale and sign do not matter; the complement's leakage is the rest; all pixels give chance;
    an image's numbers do not depend on the others."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-3, 4, (4, c, 4, 4), generator=generator).float()
    masks = torch.rand(4, 4, 4, generator=generator) < 0.5
    found = leakage(maps, masks, LEVELS)
    other = leakage(maps * factor, masks, LEVELS)
    assert torch.allclose(found.shares, other.shares, equal_nan=True)
    rest = leakage(maps, ~masks, LEVELS)
    known = ~found.mass_ratio.isnan()
    assert torch.allclose((found.shares + rest.shares)[known], torch.ones(1).double())
    assert torch.allclose((found.mass_ratio + rest.mass_ratio)[known], torch.ones(1).double())
    assert torch.allclose(found.shares[known, -1], found.region_share[known])
    alone = leakage(maps[2:3], masks[2:3], LEVELS)
    assert torch.equal(alone.shares.nan_to_num(-1), found.shares[2:3].nan_to_num(-1))


def test_a_constant_map_gives_chance_and_an_oracle_none() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    assert leakage(torch.ones(1, 1, 4, 4), masks, [0.1, 0.5]).shares.tolist() == [[0.5, 0.5]]
    oracle = (~masks)[:, None].float()
    assert leakage(oracle, masks, [0.1, 0.5, 1.0]).shares.tolist() == [[0, 0, 0.5]]
    assert leakage(oracle, masks, [0.1]).mass_ratio.tolist() == [0]


def test_maps_that_rank_nothing_have_no_leakage() -> None:
    maps = torch.rand(4, 2, 3, 3)
    maps[0] = 0
    maps[1, 0, 0, 0] = math.nan
    maps[2, 1, 2, 2] = math.inf
    found = leakage(maps, torch.ones(4, 3, 3, dtype=torch.bool), [0.2, 1.0])
    assert found.shares.isnan().tolist() == [[True] * 2] * 3 + [[False] * 2]
    assert found.mass_ratio.isnan().tolist() == [True, True, True, False]
    assert found.region_share.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("maps", "masks", "levels", "reason"),
    [
        ((2, 1, 3, 3), (2, 3, 4), [0.1], r"maps of shape \(2, 1, 3, 3\), masks of \(2, 3, 4\)"),
        ((2, 3, 3), (2, 3, 3), [0.1], r"expected \(n, c, h, w\)"),
        ((2, 1, 3, 3), (2, 3, 3), [0.1, 0.0], "level 0.0 was given"),
        ((2, 1, 3, 3), (2, 3, 3), [1.5], "level 1.5 was given"),
    ],
)
def test_what_does_not_fit(
    maps: tuple[int, ...], masks: tuple[int, ...], levels: list[float], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        leakage(torch.rand(maps), torch.zeros(masks), levels)


def test_no_images_and_no_levels() -> None:
    assert leakage(torch.rand(0, 1, 2, 2), torch.zeros(0, 2, 2), [0.5]).shares.shape == (0, 1)
    assert leakage(torch.rand(3, 1, 2, 2), torch.zeros(3, 2, 2), []).shares.shape == (3, 0)
