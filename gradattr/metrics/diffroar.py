"""DiffROAR's statistics (Shah et al. 2021): how far the top-k coordinates of an attribution predict
better than the bottom-k, and whether that difference is more than chance.

::

    PredPower(k, arm) = test accuracy of a model retrained on the coordinates that the arm keeps
    DiffROAR(k)       = PredPower(k, top) - PredPower(k, bottom)

Positive: the attribution orders the coordinates by relevance ("assumption A"). At k = 1 both arms
are the same data, so what is left of the difference there is the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from gradattr.errors import UsageError

CONFIDENCE = 0.95

#: What a scheme's differences say at one level; 'floor' at level 1, where they can say nothing.
Verdict = Literal["satisfies", "violates", "undecided", "floor"]


@dataclass(frozen=True)
class Interval:
    """A mean, and where the true mean is likely to be (Student's t)."""

    n: int
    """Values that the mean is taken of."""
    mean: float
    sd: float | None
    """Sample standard deviation (divisor n - 1); None for n = 1."""
    low: float | None
    """Lower end of the interval; None for n = 1."""
    high: float | None


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of ``values`` and its two-sided interval mean +- t(n - 1) * sd / sqrt(n).

    If all values are equal the interval is a point. UsageError: no values, one that is not
    finite, or a confidence outside of (0, 1).
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise UsageError(f"an interval needs at least one finite value, not {list(values)!r}")
    # fsum: the same mean whatever the order; equal values have exactly that mean.
    mean = math.fsum(found) / len(found)
    if len(found) == 1:
        return _student(1, mean, None, confidence)
    squares = math.fsum((found - mean) ** 2)
    equal = bool((found == found[0]).all())
    sd = 0.0 if equal else math.sqrt(squares / (len(found) - 1))
    return _student(len(found), float(found[0]) if equal else mean, sd, confidence)


def paired(top: Mapping[int, float], bottom: Mapping[int, float]) -> Interval:
    """The interval of top - bottom over seeds, for accuracies by seed number.

    Both arms of a seed begin with the same weights, so the differences are taken seed by seed
    (what a seed does to both arms drops out). UsageError: the arms have different seeds.
    """
    if top.keys() != bottom.keys():
        alone = sorted(top.keys() ^ bottom.keys())
        raise UsageError(f"seeds {alone} have one arm only; both arms need the same seeds")
    return interval([top[seed] - bottom[seed] for seed in sorted(top)])


def paired_images(both: int, top_only: int, bottom_only: int, n: int) -> Interval:
    """The interval of top - bottom over ``n`` test images, for one model evaluated on both arms.

    ``both``, ``top_only``, ``bottom_only``: images that are right in both arms, or in one alone.
    An image's difference is 1, 0 or -1, so the mean is (top_only - bottom_only) / n, and images on
    which the arms agree add no variance (as in McNemar's test). UsageError: impossible counts.
    """
    counts = (both, top_only, bottom_only)
    if n < 1 or min(counts) < 0 or sum(counts) > n:
        raise UsageError(f"counts {counts} of {n} images: expected 0 or more, in all at most {n}")
    mean = (top_only - bottom_only) / n
    return _of_counts(n, mean, top_only + bottom_only)


def share(right: int, n: int) -> Interval:
    """Accuracy of one model over ``n`` test images, ``right`` of them right, with its interval.

    UsageError: impossible counts.
    """
    if n < 1 or not 0 <= right <= n:
        raise UsageError(f"{right} of {n} images are right: expected 0 to {n}")
    return _of_counts(n, right / n, right)


def noise_floor(at_level_one: Interval) -> float | None:
    """How large a difference chance alone makes: the end of level 1's interval further from 0.

    None where one value gives no interval.
    """
    if at_level_one.low is None or at_level_one.high is None:
        return None
    return max(abs(at_level_one.low), abs(at_level_one.high))


def verdict(difference: Interval, level: float) -> Verdict:
    """'satisfies': the interval lies above 0; 'violates': below 0; else 'undecided'.

    Each level is judged alone at 95 %, so one in twenty levels of a scheme that orders at random
    comes out decided.
    """
    if level >= 1:
        return "floor"
    if difference.low is not None and difference.low > 0:
        return "satisfies"
    if difference.high is not None and difference.high < 0:
        return "violates"
    return "undecided"


def _of_counts(n: int, mean: float, ones: int) -> Interval:
    """Of n values with the given mean, of which ``ones`` are 1 or -1 and the others 0."""
    if n == 1:
        return _student(1, mean, None, CONFIDENCE)
    variance = max(0.0, ones - n * mean * mean) / (n - 1)
    return _student(n, mean, math.sqrt(variance), CONFIDENCE)


def _student(n: int, mean: float, sd: float | None, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence!r}: expected a number between 0 and 1")
    if sd is None:
        return Interval(n, mean, None, None, None)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(n, mean, sd, mean - half, mean + half)
