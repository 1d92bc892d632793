"""Summaries against scipy's bootstrap from the same resamples, and the laws of order."""

from __future__ import annotations

import math
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradattr.errors import UsageError
from gradattr.metrics.statistics import (
    IntervalKind,
    Summary,
    bootstrap_deviations,
    summaries,
    summarise,
)

SAMPLES = {
    "normal": np.random.default_rng(0).normal(3, 1, 37),
    "skewed": np.random.default_rng(1).lognormal(0, 1.5, 25),
    "zeros and ones": (np.random.default_rng(2).random(30) < 0.2).astype(float),
    "tenths": np.random.default_rng(3).integers(0, 5, 12) / 10,
    "two": np.array([0.1, 0.7]),
    "tiny": np.random.default_rng(4).lognormal(0, 1, 20) * 1e-120,
}
scores = st.one_of(st.integers(-50, 50).map(lambda n: n / 10), st.just(math.nan))


@pytest.mark.parametrize("kind", ["bca", "percentile"])
@pytest.mark.parametrize("name", SAMPLES)
def test_intervals_are_scipys_of_the_same_resamples(name: str, kind: IntervalKind) -> None:
    values = np.sort(SAMPLES[name])
    # Counted in units of the largest: scipy's third powers of tiny numbers vanish.
    values = values / values.max()
    drawn = bootstrap_deviations(values[None], seed=5, resamples=999)[0]
    # Means that are equal must not differ in their last digit when scipy counts them.
    means = np.round(drawn + values.mean(), 12)
    centre = np.round(values.mean(), 12)
    means[np.abs(means - centre) < 1e-11] = np.mean(values, axis=-1)
    done: Any = SimpleNamespace(bootstrap_distribution=means)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=0, bootstrap_result=done, method=kind
    ).confidence_interval
    found = summarise(SAMPLES[name], seed=5, resamples=999, interval=kind)
    unit = SAMPLES[name].max()
    assert (found.low / unit, found.high / unit) == pytest.approx(tuple(expected), abs=1e-10)


def test_resamples_are_means_of_draws_with_replacement() -> None:
    values = np.array([0.0, 1.0, 10.0])
    drawn = bootstrap_deviations(values[None], seed=0, resamples=40_000)[0] + 11 / 3
    possible = {round((a + b + c) / 3, 9): 0.0 for a in values for b in values for c in values}
    for a in values:
        for b in values:
            for c in values:
                possible[round((a + b + c) / 3, 9)] += 1 / 27
    seen, counts = np.unique(np.round(drawn, 9), return_counts=True)
    assert set(seen) == set(possible)
    chance = stats.chisquare(counts, [possible[one] * 40_000 for one in seen]).pvalue
    assert chance > 1e-4


def test_moments_and_what_is_missing() -> None:
    found = summarise([1.0, math.nan, 2.0, 6.0, math.nan], seed=0)
    assert (found.n, found.missing, found.mean) == (3, 2, 3.0)
    assert found.sd == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert found == summarise([1.0, 2.0, 6.0], seed=0)._replace(missing=2)
    assert found == summarise(torch.tensor([1.0, math.nan, 2.0, 6.0, math.nan]), seed=0)


def test_too_few_values_have_no_interval() -> None:
    none, one = summarise([math.nan], seed=0), summarise([0.5], seed=0)
    assert none[:2] == (0, 1)
    assert all(math.isnan(each) for each in none[2:])
    assert one[:3] == (1, 0, 0.5)
    assert all(math.isnan(each) for each in one[3:])
    assert summarise([], seed=0)[:2] == (0, 0)


def test_equal_values_are_a_point() -> None:
    assert summarise([0.1] * 3, seed=0) == Summary(3, 0, 0.1, 0.0, 0.1, 0.1)


@settings(max_examples=60, deadline=None)
@given(st.lists(scores, max_size=25), st.randoms(use_true_random=False), st.integers(0, 99))
def test_order_changes_no_bit(values: list[float], random: Any, seed: int) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    one = summarise(values, seed=seed, resamples=200)
    other = summarise(shuffled, seed=seed, resamples=200)
    assert repr(one) == repr(other)
    if one.n > 1:
        assert one.low <= one.high
        assert min(v for v in values if v == v) <= one.low
        assert one.high <= max(v for v in values if v == v)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(scores, max_size=12), min_size=1, max_size=5), st.integers(0, 99))
def test_a_summary_is_that_of_its_sample_alone(samples: list[list[float]], seed: int) -> None:
    together = summaries(dict(enumerate(samples)), seed=seed, resamples=200)
    assert list(together) == list(range(len(samples)))
    for key, values in enumerate(samples):
        alone = summarise(values, seed=seed, resamples=200)
        assert together[key] == pytest.approx(alone, abs=1e-12, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=20),
    st.sampled_from([0.25, 2.0, 1024.0]),
    st.integers(-8, 8),
)
def test_another_unit_moves_the_interval_with_it(
    values: list[int], factor: float, shift: int
) -> None:
    one = summarise([float(v) for v in values], seed=3, resamples=300)
    other = summarise([v * factor + shift for v in values], seed=3, resamples=300)
    expected = [each * factor + shift for each in (one.mean, one.low, one.high)]
    assert [other.mean, other.low, other.high] == pytest.approx(expected, abs=1e-9)


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    samples = dict(enumerate(random.exponential(1, (600, 60))))
    held = {}
    for kind in ("bca", "percentile"):
        found = summaries(samples, seed=0, resamples=600, interval=kind)
        held[kind] = np.mean([one.low <= 1 <= one.high for one in found.values()])
    assert held["bca"] >= 0.9
    assert held["bca"] >= held["percentile"]
    normal = summaries(dict(enumerate(random.normal(0, 1, (600, 60)))), seed=0, resamples=600)
    assert 0.915 <= np.mean([one.low <= 0 <= one.high for one in normal.values()]) <= 0.975


def test_a_wider_level_is_a_wider_interval_and_the_seed_decides() -> None:
    values = SAMPLES["skewed"]
    narrow, wide = (summarise(values, seed=0, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert summarise(values, seed=0) == summarise(values, seed=0)
    assert summarise(values, seed=0) != summarise(values, seed=1)


def test_memory_does_not_grow_with_the_resamples() -> None:
    rows = np.sort(np.random.default_rng(0).random((3, 20_000)), axis=1)
    peaks = []
    for resamples in (300, 900):
        tracemalloc.start()
        bootstrap_deviations(rows, seed=0, resamples=resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20
    assert peaks[1] < 60 * 2**20


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        ([1.0, math.inf], {}, "value 1 of 2 is infinite"),
        ([[1.0]], {}, r"values of shape \(1, 1\)"),
        ([1.0, 2.0], {"level": 95}, "between 0 and 1"),
        ([1.0, 2.0], {"resamples": 0}, "expected 1 or more"),
        ([1.0, 2.0], {"interval": "t"}, "expected 'bca' or 'percentile'"),
    ],
)
def test_what_does_not_fit(values: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        summarise(values, seed=0, **options)
