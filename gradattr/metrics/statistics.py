r"""What n images say of one number: its mean, and where the true mean is likely to be.

The interval is a bootstrap over images: n images are drawn with replacement, their mean is taken,
and that many times. A value that is NaN does not exist for its image (a constant map, an empty
mask); it is counted as missing and left out, and the interval is that of the others.

**Which interval.** BCa (bias-corrected and accelerated, Efron 1987) by default: scores of images
are skewed (areas near 0, ratios with a long tail), and the share of intervals that lie wholly on
one side of the truth comes right as 1/n for BCa, as :math:`1/\sqrt n` for the percentile interval.
For a mean it costs nothing more, because the jackknife has a closed form. With :math:`\Phi` the
normal distribution function, :math:`\theta^*` the means of the resamples,
:math:`U_i = x_i - \bar x`:

.. math:: z_0 = \Phi^{-1}(P(\theta^* < \bar x) + P(\theta^* = \bar x) / 2), \qquad
          a = \sum U_i^3 / (6 (\sum U_i^2)^{3/2}), \qquad
          q(z) = \Phi(z_0 + (z_0 + z) / (1 - a (z_0 + z)))

and the interval ends at the quantiles :math:`q(\pm z)` of :math:`\theta^*`. With fewer than about
ten images any bootstrap is too narrow.

**Order.** The values are sorted before they are drawn from, so that a summary is a function of the
values as a set, and of the seed: the order of images cannot matter, nor what other methods there
are. Two samples of equal size are drawn from at equal places.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from gradattr.errors import UsageError
from gradattr.seeds import derive_seed

#: One number per image, (n,); NaN where it does not exist.
Values = Sequence[float] | NDArray[np.float64] | Tensor
IntervalKind = Literal["bca", "percentile"]
Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
LEVEL = 0.95
#: Images of several resamples drawn at once: three arrays of 8 bytes each.
_DRAWN_AT_ONCE = 2**21
#: Values of samples held at once as rows of one array: 40 MB.
_HELD_AT_ONCE = 5 * 10**6
#: Means of resamples are equal to the mean up to rounding, relative to the largest deviation.
_ROUNDING = 1e-12


class Summary(NamedTuple):
    """Of the values of one metric for one method; in the metric's own unit."""

    n: int
    """Images that have a value."""
    missing: int
    """Images that have none (NaN)."""
    mean: float
    """NaN for n = 0."""
    sd: float
    """Sample standard deviation (divisor n - 1); NaN for n < 2."""
    low: float
    """Lower end of the interval of the mean; NaN for n < 2."""
    high: float
    """Upper end; NaN for n < 2."""


def summarise(
    values: Values,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    interval: IntervalKind = "bca",
) -> Summary:
    """Summary of ``values`` (n,) with a two-sided bootstrap interval of the mean at ``level``.

    If all values are equal the interval is a point. Raises UsageError for values that are infinite
    or not of one dimension, no resamples, or a level outside of (0, 1).
    """
    only = summaries({0: values}, seed=seed, resamples=resamples, level=level, interval=interval)
    return only[0]


def summaries(
    values: Mapping[Key, Values],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    interval: IntervalKind = "bca",
) -> dict[Key, Summary]:
    """`summarise` for many samples at once, by their key; samples of equal size share the draws.

    The keys of the result are in the order given. Each summary is that of its sample alone, up to
    the rounding of sums.
    """
    every = {key: as_values(each) for key, each in values.items()}
    present = {key: int(np.isfinite(each).sum()) for key, each in every.items()}
    found: dict[Key, Summary] = {}
    for n in sorted(set(present.values())):
        keys = [key for key, count in present.items() if count == n]
        for some in blocks(keys, n):
            rows = np.stack([np.sort(every[key])[:n] for key in some])  # NaN is sorted to the end
            ends = mean_intervals(
                rows, seed=seed, resamples=resamples, level=level, interval=interval
            )
            for key, row, (low, high) in zip(some, rows, ends, strict=True):
                missing = len(every[key]) - n
                found[key] = Summary(n, missing, mean(row), _sd(row), low, high)
    return {key: found[key] for key in values}


def mean_intervals(
    rows: NDArray[np.float64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    interval: IntervalKind = "bca",
) -> list[tuple[float, float]]:
    """Interval of the mean of each of ``rows`` (k, n), sorted finite values; NaN for n < 2."""
    if not 0 < level < 1:
        raise UsageError(f"bootstrap: level {level!r}: expected a number between 0 and 1")
    if interval not in ("bca", "percentile"):
        raise UsageError(f"bootstrap: interval {interval!r}: expected 'bca' or 'percentile'")
    if rows.shape[1] < 2:
        return [(math.nan, math.nan)] * len(rows)
    drawn = bootstrap_deviations(rows, seed=seed, resamples=resamples)
    return [
        _interval(row, deviations, level, interval)
        for row, deviations in zip(rows, drawn, strict=True)
    ]


def bootstrap_deviations(
    rows: NDArray[np.float64], *, seed: int, resamples: int
) -> NDArray[np.float64]:
    """(k, resamples): mean of a resample less the mean, for rows (k, n) of finite values.

    A function of the seed, of n and of each row; sort the rows for one that ignores their order.
    Memory: about 50 MB, whatever n is, besides a copy of the rows. Time: n * resamples draws,
    shared by all rows, and k * n * resamples multiplications.
    """
    if resamples < 1:
        raise UsageError(f"bootstrap: {resamples} resamples were asked for, expected 1 or more")
    n = rows.shape[1]
    deviations = rows - np.array([[mean(row)] for row in rows])
    found = np.empty((len(rows), resamples))
    random = np.random.default_rng(derive_seed(seed, "bootstrap", n))
    at_once = max(1, _DRAWN_AT_ONCE // n)
    for first in range(0, resamples, at_once):
        some = min(at_once, resamples - first)
        # How often each place is drawn: one matrix product then serves all rows.
        places = random.integers(0, n, size=(some, n))
        places += n * np.arange(some)[:, None]
        counts = np.bincount(places.ravel(), minlength=some * n).reshape(some, n)
        del places
        found[:, first : first + some] = deviations @ counts.astype(np.float64).T / n
    return found


def blocks(keys: Sequence[Key], n: int) -> Iterator[Sequence[Key]]:
    """The keys, so many at a time that their samples of n values may be held in one array."""
    at_once = max(1, _HELD_AT_ONCE // max(1, n))
    for first in range(0, len(keys), at_once):
        yield keys[first : first + at_once]


def as_values(values: Values) -> NDArray[np.float64]:
    """(n,) float64 with NaN where a value is missing. UsageError for infinite ones."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise UsageError(f"values of shape {found.shape}; expected (n,), one per image")
    infinite = np.isinf(found)
    if infinite.any():
        raise UsageError(
            f"value {int(infinite.argmax())} of {len(found)} is infinite; expected finite values, "
            "and NaN where an image has none"
        )
    return found


def mean(values: NDArray[np.float64]) -> float:
    """Exactly rounded, so the same in any order; that value itself if all are equal; else NaN."""
    if not len(values):
        return math.nan
    if values[0] == values[-1] and bool((values == values[0]).all()):
        return float(values[0])
    return math.fsum(values) / len(values)


def _sd(values: NDArray[np.float64]) -> float:
    if len(values) < 2:
        return math.nan
    return math.sqrt(math.fsum((values - mean(values)) ** 2) / (len(values) - 1))


def _interval(
    row: NDArray[np.float64], drawn: NDArray[np.float64], level: float, kind: IntervalKind
) -> tuple[float, float]:
    centre = mean(row)
    away = row - centre
    if not away.any():
        return centre, centre
    quantiles = np.array([(1 - level) / 2, (1 + level) / 2])
    if kind == "bca":
        # Scaled to 1 at most: third powers of small scores would vanish.
        away = away / np.abs(away).max()
        quantiles = _bca_quantiles(away, drawn, float(np.abs(row - centre).max()), quantiles)
    # No mean lies beyond the values, nor may rounding put it there (a probability above 1).
    low, high = np.clip(centre + np.quantile(drawn, quantiles), row.min(), row.max())
    return float(low), float(high)


def _bca_quantiles(
    away: NDArray[np.float64],
    drawn: NDArray[np.float64],
    scale: float,
    quantiles: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Where BCa reads the resamples off in place of ``quantiles``."""
    equal = np.abs(drawn) <= _ROUNDING * scale
    below = ((drawn < 0) & ~equal).mean() + equal.mean() / 2
    # Resamples that are all on one side: as far off as so many resamples can tell.
    shift = ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    moved = shift + ndtri(quantiles)
    found: NDArray[np.float64] = ndtr(shift + moved / (1 - acceleration * moved))
    return found
