"""DiffROAR's statistics against scipy's, against every image counted one by one, and their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradattr.errors import UsageError
from gradattr.metrics.diffroar import (
    Interval,
    interval,
    noise_floor,
    paired,
    paired_images,
    share,
    verdict,
)

accuracies = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=12)


@given(accuracies)
def test_the_interval_is_that_of_a_t_test(values: list[float]) -> None:
    found = interval(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if len(set(values)) > 1:
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_a_published_example() -> None:
    # t(4, .975) = 2.776: the factor of every table of Student's t for five seeds.
    found = interval([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.mean == pytest.approx(0.3)
    assert found.sd == pytest.approx(0.158114, abs=1e-6)
    assert found.high == pytest.approx(0.3 + 2.7764 * 0.158114 / 5**0.5, abs=1e-4)


@given(accuracies, st.randoms(use_true_random=False))
def test_order_changes_nothing(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = interval(values), interval(shuffled)
    assert first.mean == second.mean
    assert first.sd == pytest.approx(second.sd, abs=1e-15)


def test_equal_values_are_a_point_and_one_value_has_no_interval() -> None:
    assert interval([0.1] * 3) == Interval(3, 0.1, 0.0, 0.1, 0.1)
    assert interval([0.7]) == Interval(1, 0.7, None, None, None)
    assert verdict(interval([0.7]), 0.5) == "undecided"
    assert noise_floor(interval([0.7])) is None


@given(accuracies, st.floats(-0.5, 0.5))
def test_what_a_seed_does_to_both_arms_drops_out(values: list[float], gain: float) -> None:
    bottom = dict(enumerate(values))
    top = {seed: value + gain for seed, value in bottom.items()}
    found = paired(top, bottom)
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert found.sd == pytest.approx(0, abs=1e-9)


@given(accuracies, accuracies)
def test_exchanged_arms_change_the_sign_and_the_verdict(
    first: list[float], second: list[float]
) -> None:
    n = min(len(first), len(second))
    a, b = dict(enumerate(first[:n])), dict(enumerate(second[:n]))
    here, there = paired(a, b), paired(b, a)
    assert here.mean == pytest.approx(-there.mean, abs=1e-12)
    assert here.low is not None
    assert there.high is not None
    assert here.low == pytest.approx(-there.high, abs=1e-12)
    opposite = {"satisfies": "violates", "violates": "satisfies", "undecided": "undecided"}
    assert verdict(there, 0.5) == opposite[verdict(here, 0.5)]


def test_arms_with_different_seeds_are_refused() -> None:
    with pytest.raises(UsageError, match=r"seeds \[1, 2\] have one arm only"):
        paired({0: 0.5, 1: 0.5}, {0: 0.5, 2: 0.5})


counts = st.tuples(*[st.integers(0, 30)] * 4).filter(lambda c: sum(c) >= 2)


@given(counts)
def test_images_counted_one_by_one(found: tuple[int, int, int, int]) -> None:
    both, top_only, bottom_only, neither = found
    n = sum(found)
    differences = [0] * both + [1] * top_only + [-1] * bottom_only + [0] * neither
    _same(paired_images(both, top_only, bottom_only, n), interval(differences))
    right = [1] * (both + top_only) + [0] * (bottom_only + neither)
    _same(share(both + top_only, n), interval(right))


def _same(one: Interval, other: Interval) -> None:
    assert one.n == other.n
    for name in ("mean", "sd", "low", "high"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)


@pytest.mark.parametrize("counted", [(5, 5, 5, 14), (-1, 0, 0, 5), (0, 0, 0, 0)])
def test_impossible_counts_are_refused(counted: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="expected 0 or more"):
        paired_images(*counted)


def test_what_is_no_number_is_refused() -> None:
    for values in ([], [0.5, float("nan")], [float("inf")]):
        with pytest.raises(UsageError, match="at least one finite value"):
            interval(values)
    with pytest.raises(UsageError, match="between 0 and 1"):
        interval([1.0, 2.0], confidence=95)
    with pytest.raises(UsageError, match="expected 0 to 5"):
        share(6, 5)


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        ([0.10, 0.11, 0.12], 0.3, "satisfies"),
        ([-0.10, -0.11, -0.12], 0.3, "violates"),
        ([-0.10, 0.11, 0.01], 0.3, "undecided"),
        ([0.0, 0.0, 0.0], 0.3, "undecided"),
        ([0.1, 0.1, 0.1], 0.3, "satisfies"),
        ([0.10, 0.11, 0.12], 1.0, "floor"),
    ],
)
def test_verdicts(values: list[float], level: float, expected: str) -> None:
    assert verdict(interval(values), level) == expected


def test_chance_is_decided_in_one_of_twenty_levels() -> None:
    random = np.random.default_rng(0)
    draws = random.normal(0, 0.01, (2000, 5))
    decided = sum(verdict(interval(list(row)), 0.5) != "undecided" for row in draws)
    assert 0.035 <= decided / 2000 <= 0.065


def test_the_noise_floor_is_the_further_end() -> None:
    found = interval([-0.02, 0.0, -0.01])
    assert found.low is not None
    assert noise_floor(found) == -found.low
    assert noise_floor(interval([0.0, 0.0])) == 0
