"""Agreement of maps: scipy's Spearman with ties, and overlap of the top."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from gradattr.attribution.agreement import agreement


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 60), levels=st.sampled_from([2, 5, 10**6]))
def test_equals_scipy_with_ties(seed: int, size: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(-levels, levels, (2, 1, size), generator=generator).double()
    assume(len(a.abs().unique()) > 1 and len(b.abs().unique()) > 1)
    expected = spearmanr(a.abs()[0], b.abs()[0]).statistic
    assert float(agreement(a, b).spearman[0]) == pytest.approx(expected, abs=1e-12)


def test_invariances() -> None:
    a = torch.randn(4, 3, 8, 8)
    found = agreement(a, -3 * a)
    torch.testing.assert_close(found.spearman, torch.ones(4, dtype=torch.float64))
    assert torch.equal(found.top_overlap, torch.ones(4, dtype=torch.float64))


def test_top_overlap_counts_the_tenth() -> None:
    a = torch.arange(40.0).reshape(1, 40)
    b = a.clone()
    b[0, 39], b[0, 0] = 0.0, 39.0  # one of the four largest is gone
    assert agreement(a, b).top_overlap.tolist() == [0.75]


def test_constant_maps() -> None:
    flat, ramp = torch.ones(1, 10), torch.arange(10.0)[None]
    assert agreement(flat, 2 * flat).spearman.tolist() == [1.0]
    assert agreement(flat, ramp).spearman.tolist() == [0.0]


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="compared with"):
        agreement(torch.ones(2, 3), torch.ones(2, 4))
