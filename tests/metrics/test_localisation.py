"""Localisation against scikit-learn, distances by hand, and its laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from gradattr.errors import UsageError
from gradattr.metrics.leakage import leakage
from gradattr.metrics.localisation import localisation


def _drawn(
    seed: int, n: int = 5, c: int = 2, h: int = 6, w: int = 7, values: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps with many equal scores, masks neither empty nor full."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-values, values + 1, (n, c, h, w), generator=generator).float()
    masks = torch.rand(n, h, w, generator=generator) < 0.3
    masks[:, 0, 0], masks[:, -1, -1] = True, False
    maps[:, 0, 1, 1] = 1
    return maps, masks


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), values=st.sampled_from([1, 3, 10**6]))
def test_auc_is_that_of_scikit_learn(seed: int, values: int) -> None:
    maps, masks = _drawn(seed, values=values)
    found = localisation(maps, masks).auc
    scores = maps.double().abs().sum(1).flatten(1)
    expected = [
        roc_auc_score(mask.flatten(), score)
        for mask, score in zip(masks.numpy(), scores.numpy(), strict=True)
    ]
    assert found.numpy() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tolerance=st.sampled_from([0, 0.9, 1, 1.4, 1.5, 2, 3.7, 5, 40]),
    h=st.integers(2, 7),
    w=st.integers(2, 7),
)
def test_pointing_against_distances(seed: int, tolerance: float, h: int, w: int) -> None:
    maps, masks = _drawn(seed, h=h, w=w)
    found = localisation(maps, masks, tolerance=tolerance).pointing
    for at in range(len(maps)):
        scores = maps[at].abs().sum(0)
        region = masks[at].nonzero().tolist()
        hits = [
            min(math.dist(pixel, other) for other in region) <= tolerance
            for pixel in (scores == scores.max()).nonzero().tolist()
        ]
        assert float(found[at]) == pytest.approx(sum(hits) / len(hits))


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.integers(0, 2), min_size=6, max_size=6).filter(any),
    marked=st.lists(st.booleans(), min_size=6, max_size=6).filter(lambda m: 0 < sum(m) < 6),
)
def test_rank_accuracy_is_its_mean_over_all_orders(scores: list[int], marked: list[bool]) -> None:
    count = sum(marked)
    parts = []
    for order in itertools.permutations(range(6)):
        ranked = sorted(order, key=lambda p: -scores[p])
        parts.append(sum(marked[p] for p in ranked[:count]) / count)
    maps = torch.tensor(scores).float().view(1, 1, 2, 3)
    found = localisation(maps, torch.tensor(marked).view(1, 2, 3))
    assert float(found.rank) == pytest.approx(sum(parts) / len(parts), abs=1e-12)


def test_mass_and_shares_are_those_of_leakage() -> None:
    maps, masks = _drawn(0)
    found = localisation(maps, masks, levels=[0.1, 0.5])
    expected = leakage(maps, masks, [0.1, 0.5])
    assert torch.equal(found.mass, expected.mass_ratio)
    assert torch.equal(found.shares, expected.shares)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([-1.0, 2.0**-100, 4.0]))
def test_laws(seed: int, factor: float) -> None:
    """Scale and sign do not matter; the complement is found as badly as the region well; an image's
    numbers do not depend on the others."""
    maps, masks = _drawn(seed)
    found = localisation(maps, masks, levels=[0.2])
    for one, other in zip(found, localisation(maps * factor, masks, levels=[0.2]), strict=True):
        torch.testing.assert_close(one, other)
    rest = localisation(maps, ~masks, levels=[0.2])
    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(found.auc + rest.auc, ones)
    torch.testing.assert_close(found.mass + rest.mass, ones)
    torch.testing.assert_close(found.pointing + rest.pointing, ones)
    alone = localisation(maps[2:3], masks[2:3], levels=[0.2])
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one[2:3], other)


def test_the_mask_itself_its_reverse_and_a_constant() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, 1:3, 1:3] = True
    maps = torch.stack([masks[0].float(), 1 - masks[0].float(), torch.ones(4, 4)])[:, None]
    found = localisation(maps, masks, levels=[0.25])
    for each in (found.pointing, found.mass, found.rank, found.shares[:, 0]):
        assert each.tolist() == [1, 0, 0.25]
    assert found.auc.tolist() == [1, 0, 0.5]
    # Only the corners are further than 1 from the square.
    assert localisation(maps, masks, tolerance=1).pointing.tolist() == [1, 8 / 12, 12 / 16]
    assert localisation(maps, masks, tolerance=2).pointing.tolist() == [1, 1, 1]


def test_where_nothing_is_to_be_found() -> None:
    maps = torch.rand(6, 2, 3, 3)
    masks = torch.zeros(6, 3, 3, dtype=torch.bool)
    masks[1:, 0] = True
    masks[1] = True
    maps[2] = 0
    maps[3, 0, 0, 0] = math.nan
    maps[4, 1, 2, 2] = math.inf
    for each in localisation(maps, masks, levels=[0.5], tolerance=1):
        assert each.dtype == torch.float64
        assert each.flatten().isnan().tolist() == [True] * 5 + [False]


def test_random_maps_find_what_chance_finds() -> None:
    random = np.random.default_rng(0)
    maps = torch.from_numpy(random.random((800, 1, 8, 8)))
    masks = torch.zeros(800, 8, 8, dtype=torch.bool)
    masks[:, :4, :4] = True
    found = localisation(maps, masks, levels=[0.1])
    for each in (found.pointing, found.mass, found.rank, found.shares[:, 0]):
        assert float(each.mean()) == pytest.approx(0.25, abs=0.05)
    assert float(found.auc.mean()) == pytest.approx(0.5, abs=0.02)


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"masks of \(2, 3, 4\)"):
        localisation(torch.rand(2, 1, 3, 3), torch.ones(2, 3, 4))
    with pytest.raises(UsageError, match="tolerance -1"):
        localisation(torch.rand(2, 1, 3, 3), torch.ones(2, 3, 3), tolerance=-1)
    assert localisation(torch.rand(0, 1, 2, 2), torch.zeros(0, 2, 2)).auc.shape == (0,)
