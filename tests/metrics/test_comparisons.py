"""Differences against every sign pattern counted, Holm's formula, and the laws of order."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradattr.errors import UsageError
from gradattr.metrics.comparisons import (
    GROUPS,
    Difference,
    holm,
    paired_differences,
    ranking,
    sign_flip_p,
)
from gradattr.metrics.statistics import summarise

scores = st.one_of(st.integers(-30, 30).map(lambda n: n / 10), st.just(math.nan))


@st.composite
def tables(draw: Any) -> dict[str, list[float]]:
    """Up to five methods, up to 20 images, values missing here and there."""
    n = draw(st.integers(0, 20))
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True))
    return {name: draw(st.lists(scores, min_size=n, max_size=n)) for name in names}


def _patterns(differences: list[int]) -> float:
    """Integers: sums are exact, so equal is equal."""
    reached = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= abs(sum(differences))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(reached) / len(reached)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_few_images_are_counted_exactly(differences: list[int]) -> None:
    row = np.sort(np.array(differences) / 10)
    assert sign_flip_p(row[None], seed=0) == [pytest.approx(_patterns(differences), abs=1e-12)]


@pytest.mark.parametrize("size", [12, 16])
def test_random_patterns_agree_with_all(size: int) -> None:
    draws = np.random.default_rng(size).integers(-9, 14, (4, size))
    rows = np.sort(draws / 10, axis=1)
    every = sign_flip_p(rows, seed=0, flips=2**size)
    some = sign_flip_p(rows, seed=0, flips=4000)
    for exact, found in zip(every, some, strict=True):
        assert found == pytest.approx(exact, abs=4.5 * math.sqrt(exact / 4000) + 1 / 4000)


def test_two_methods_that_differ_on_every_image_have_the_smallest_p() -> None:
    assert sign_flip_p(np.ones((1, 10)), seed=0) == [2 / 2**10]
    assert sign_flip_p(np.ones((1, 500)), seed=0, flips=999) == [1 / 1000]
    assert sign_flip_p(np.ones((1, 5000)), seed=0, flips=999) == [1 / 1000]
    assert sign_flip_p(np.zeros((1, 30)), seed=0) == [1.0]


def test_groups_of_images_agree_with_a_t_test() -> None:
    random = np.random.default_rng(0)
    rows = np.sort(random.normal(0.03, 1, (8, 3 * GROUPS)), axis=1)
    expected = stats.ttest_1samp(rows, 0, axis=1).pvalue
    found = np.array(sign_flip_p(rows, seed=0))
    # A quantile moves by 1 / sqrt(2 * groups) of itself: 2 %.
    moved = np.abs(stats.norm.isf(found / 2) / stats.norm.isf(expected / 2) - 1)
    assert (moved < 0.1).all()


@pytest.mark.parametrize("n", [8, 40, GROUPS + 200])
def test_equal_methods_are_told_apart_as_often_as_the_level_says(n: int) -> None:
    """Many ties, as between metrics of hits and misses."""
    random = np.random.default_rng(n)
    rows = np.sort(random.integers(-1, 2, (600, n)).astype(float), axis=1)
    found = np.array(sign_flip_p(rows, seed=0, flips=999))
    assert (found <= 0.05).mean() <= 0.077  # 0.05 and three standard errors
    assert (found <= 0.5).mean() <= 0.561
    assert (found <= 0.5).mean() >= 0.25


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40), st.integers(0, 9))
def test_exchanged_methods_have_the_same_p(differences: list[int], seed: int) -> None:
    row = np.sort(np.array(differences, dtype=float))
    both = [sign_flip_p(one[None], seed=seed, flips=200) for one in (row, -row[::-1])]
    assert both[0] == both[1]
    far = np.sort(np.random.default_rng(seed).normal(0.02, 1, (1, GROUPS + 50)))
    assert sign_flip_p(far, seed=seed, flips=200) == sign_flip_p(
        -far[:, ::-1], seed=seed, flips=200
    )


@settings(max_examples=50, deadline=None)
@given(tables(), st.randoms(use_true_random=False), st.integers(0, 9))
def test_order_of_images_and_methods_changes_no_bit(
    table: dict[str, list[float]], random: Any, seed: int
) -> None:
    order = list(range(len(next(iter(table.values())))))
    random.shuffle(order)
    names = list(table)
    random.shuffle(names)
    moved = {name: [table[name][at] for at in order] for name in names}
    one, other = (
        paired_differences(each, seed=seed, resamples=100, flips=300) for each in (table, moved)
    )
    assert repr(one) == repr(other)
    first, second = (ranking(each, one, higher_is_better=True) for each in (table, moved))
    assert repr(first) == repr(second)


@settings(max_examples=30, deadline=None)
@given(tables(), st.integers(0, 9))
def test_a_pair_is_compared_as_if_it_were_alone(table: dict[str, list[float]], seed: int) -> None:
    for found in paired_differences(table, seed=seed, resamples=100, flips=300):
        pair = {name: table[name] for name in (found.first, found.second)}
        (alone,) = paired_differences(pair, seed=seed, resamples=100, flips=300)
        assert found[2:-1] == pytest.approx(alone[2:-1], abs=1e-12, nan_ok=True)
        rest = [a - b for a, b in zip(*pair.values(), strict=True)]
        of_values = summarise(rest, seed=seed, resamples=100)
        assert found[2] == of_values.n
        expected = (of_values.mean, of_values.low, of_values.high)
        assert found[3:6] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_paired_bootstrap_sees_what_two_intervals_do_not() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(0, 1, 50)
    table = {"b": hard, "a": hard + random.normal(0.05, 0.02, 50)}
    (found,) = paired_differences(table, seed=0)
    assert (found.first, found.second, found.n) == ("a", "b", 50)
    assert 0.04 < found.low < found.mean < found.high < 0.06
    assert found.p == found.p_corrected == 1 / 20_001
    assert summarise(table["a"], seed=0).low < summarise(table["b"], seed=0).mean


def _statsmodels_holm(chances: list[float]) -> list[float]:
    """statsmodels.stats.multitest.multipletests(method="holm"), its formula."""
    order = np.argsort(chances)
    raw = np.array(chances)[order] * np.arange(len(chances), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(raw), 1)
    found = np.empty(len(chances))
    found[order] = corrected
    return found.tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm(chances: list[float]) -> None:
    expected = _statsmodels_holm(chances)
    assert holm(chances) == pytest.approx(expected, abs=1e-15)
    with_gaps = holm([math.nan, *chances, math.nan])
    assert with_gaps[1:-1] == pytest.approx(expected, abs=1e-15)
    assert math.isnan(with_gaps[0])
    assert math.isnan(with_gaps[-1])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_ranks_are_means_over_images() -> None:
    table = {
        "good": [0.9, 0.8, 0.7, 0.9],
        "same": [0.9, 0.8, 0.6, math.nan],
        "poor": [0.1, 0.2, 0.3, 0.1],
        "none": [math.nan] * 4,
    }
    differences = paired_differences(table, seed=0)
    found = {one.method: one for one in ranking(table, differences, higher_is_better=True)}
    assert list(found) == ["good", "same", "poor", "none"]
    assert [one.n for one in found.values()] == [3] * 4
    assert found["good"].mean_rank == pytest.approx((1.5 + 1.5 + 1) / 3)
    assert found["same"].mean_rank == pytest.approx((1.5 + 1.5 + 2) / 3)
    assert [one.rank for one in found.values()] == [1, 2, 3, None]
    assert math.isnan(found["none"].mean_rank)
    lower = ranking(table, differences, higher_is_better=False)
    assert [one.method for one in lower] == ["poor", "same", "good", "none"]


def test_methods_that_cannot_be_told_apart_are_named() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(0, 1, 200)
    noise = random.normal(0, 0.1, (3, 200))
    table = {"a": hard + noise[0], "b": hard + noise[1], "c": hard + noise[2] + 1}
    found = ranking(table, paired_differences(table, seed=0), higher_is_better=True)
    tied = {one.method: one.tied_with for one in found}
    assert tied == {"c": (), "a": ("b",), "b": ("a",)}
    assert found[0].method == "c"


def test_methods_with_equal_ranks_share_one() -> None:
    table = {"b": [1.0, 2.0], "a": [1.0, 2.0], "c": [0.0, 0.0]}
    found = ranking(table, paired_differences(table, seed=0), higher_is_better=True)
    assert [(one.method, one.rank, one.mean_rank) for one in found] == [
        ("a", 1, 1.5),
        ("b", 1, 1.5),
        ("c", 3, 3.0),
    ]


def test_no_common_image() -> None:
    table = {"a": [1.0, math.nan], "b": [math.nan, 1.0]}
    (found,) = paired_differences(table, seed=0)
    assert found[:3] == ("a", "b", 0)
    assert all(math.isnan(each) for each in found[3:])
    ranked = ranking(table, [found], higher_is_better=True)
    assert [(one.n, one.rank, one.tied_with) for one in ranked] == [
        (0, None, ("b",)),
        (0, None, ("a",)),
    ]
    assert paired_differences({"a": [1.0]}, seed=0) == []
    assert paired_differences({}, seed=0) == []
    assert ranking({}, [], higher_is_better=True) == []


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="different numbers of images"):
        paired_differences({"a": [1.0], "b": [1.0, 2.0]}, seed=0)
    with pytest.raises(UsageError, match="expected 1 or more"):
        paired_differences({"a": [1.0], "b": [2.0]}, seed=0, flips=0)
    with pytest.raises(UsageError, match="no difference between 'a' and 'b'"):
        other = Difference("a", "c", 1, 0.0, 0.0, 0.0, 1.0, 1.0)
        ranking({"a": [1.0], "b": [2.0]}, [other], higher_is_better=True)
