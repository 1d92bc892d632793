"""Differences between runs: antisymmetric to the last bit, and 0 of a run from itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradattr.metrics.comparisons import paired_differences
from gradattr.metrics.run_differences import (
    RunDifference,
    corrected,
    finite,
    paired_by_image,
    paired_by_seed,
    unpaired,
)

numbers = st.floats(-100, 100, allow_subnormal=False)
#: Few different values: ties, differences of 0, symmetric samples.
coarse = st.integers(-2, 2).map(float)
one = st.one_of(numbers, coarse, st.just(math.nan))
pairs = st.lists(st.tuples(one, one), max_size=12)


def assert_opposite(found: RunDifference, other: RunDifference) -> None:
    assert (found.n, found.p, found.p_corrected) == pytest.approx(
        (other.n, other.p, other.p_corrected), nan_ok=True, rel=0, abs=0
    )
    for name, theirs, sign in (
        ("a", "b", 1),
        ("b", "a", 1),
        ("mean", "mean", -1),
        ("low", "high", -1),
        ("high", "low", -1),
    ):
        mine, turned = getattr(found, name), sign * getattr(other, theirs)
        assert mine == turned or (math.isnan(mine) and math.isnan(turned)), name


@settings(max_examples=150, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=3))
def test_a_and_b_are_the_opposite_of_b_and_a(samples: list[list[tuple[float, float]]]) -> None:
    columns = [tuple(zip(*sample, strict=True)) or ((), ()) for sample in samples]
    forth = {at: (list(a), list(b)) for at, (a, b) in enumerate(columns)}
    back = {at: (b, a) for at, (a, b) in forth.items()}
    found = paired_by_image(forth, resamples=50, flips=200)
    other = paired_by_image(back, resamples=50, flips=200)
    assert list(found) == list(forth)
    for at in forth:
        assert_opposite(found[at], other[at])
        if found[at].n > 1:
            assert found[at].low <= found[at].mean + 1e-9
            assert found[at].mean <= found[at].high + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.lists(one, max_size=12))
def test_a_run_does_not_differ_from_itself(values: list[float]) -> None:
    (found,) = paired_by_image({0: (values, values)}, resamples=50, flips=200).values()
    present = [value for value in values if not math.isnan(value)]
    assert found.n == len(present)
    if present:
        assert found.mean == 0
        assert found.a == found.b
        assert found.p == 1
    if len(present) > 1:
        assert (found.low, found.high) == (0, 0)


def test_it_is_the_comparison_of_methods() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, 40), random.normal(0.4, 1, 40)
    a[3], b[7] = math.nan, math.nan
    (found,) = paired_by_image({0: (a, b)}).values()
    (theirs,) = paired_differences({"A": a, "B": b}, seed=0)
    assert found.n == theirs.n == 38
    assert found.mean == pytest.approx(-theirs.mean)
    assert found.p == theirs.p
    # The interval is made of one of two bootstraps that mirror each other but for the draws.
    assert (found.low, found.high) == pytest.approx((-theirs.high, -theirs.low), abs=0.06)
    assert found.a == pytest.approx(np.delete(a, [3, 7]).mean())


seeds = st.dictionaries(st.integers(0, 9), st.tuples(coarse, numbers), min_size=1, max_size=6)


@given(seeds)
def test_paired_by_seed(values: dict[int, tuple[float, float]]) -> None:
    a = {seed: value for seed, (value, _) in values.items()}
    b = {seed: value for seed, (_, value) in values.items()}
    assert_opposite(paired_by_seed(a, b), paired_by_seed(b, a))
    same = paired_by_seed(b, b)
    assert same.mean == 0
    assert len(b) == 1 or (same.low, same.high, same.p) == (0, 0, 1)


def test_the_tests_are_scipys() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(0, 1, 6), random.normal(1, 2, 6)
    found = paired_by_seed(dict(enumerate(a)), dict(enumerate(b)))
    theirs = stats.ttest_rel(b, a)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    longer = random.normal(1, 2, 9)
    alone = unpaired((a.mean(), a.std(ddof=1), 6), (longer.mean(), longer.std(ddof=1), 9))
    welch = stats.ttest_ind(longer, a, equal_var=False)
    assert alone.p == pytest.approx(welch.pvalue)
    assert (alone.low, alone.high) == pytest.approx(tuple(welch.confidence_interval()))
    assert alone.n == 6


told = st.tuples(numbers, st.one_of(st.none(), st.floats(0, 10)), st.integers(1, 20))


@given(told, told)
def test_unpaired(a: tuple[float, float | None, int], b: tuple[float, float | None, int]) -> None:
    assert_opposite(unpaired(a, b), unpaired(b, a))
    same = unpaired(a, a)
    assert same.mean == 0
    assert math.isnan(same.p) or same.p == 1


def test_correction_and_missing_values() -> None:
    made = [RunDifference(5, 0, 1, 1, 0, 2, p, math.nan) for p in (0.01, math.nan, 0.04)]
    found = corrected(dict(enumerate(made)))
    assert [one.p_corrected for one in found.values()] == pytest.approx(
        [0.02, math.nan, 0.04], nan_ok=True
    )
    assert np.isnan(finite([None, math.inf, math.nan, -math.inf])).all()
    assert finite([1, 2]).tolist() == [1, 2]
