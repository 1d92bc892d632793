r"""How two runs differ in a number: over the same images, over the same seeds, or each on its own.

Run A is what there was, run B what there is: a difference is B - A. Every function is antisymmetric
to the last bit: what A and B say of each other is the opposite of what B and A say, and a run
differs from itself by exactly 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradattr.metrics.comparisons import FLIPS, holm, sign_flip_p
from gradattr.metrics.diffroar import CONFIDENCE, interval
from gradattr.metrics.statistics import RESAMPLES, Values, as_values, blocks, mean, mean_intervals

Key = TypeVar("Key", bound=Hashable)

#: Seed of the bootstrap and of the sign flips.
SEED = 0
#: Rounding of sums, relative to the largest difference.
_ROUNDING = 1e-12


class RunDifference(NamedTuple):
    """B - A of one number."""

    n: int
    """Images (or seeds) for which both have a value; of unpaired ones those of the smaller run."""
    a: float
    """Mean of A over them; NaN for n = 0."""
    b: float
    mean: float
    """B - A, in the number's unit."""
    low: float
    """Lower end of the 95 % interval of the difference; NaN where there is none."""
    high: float
    p: float
    """Two-sided; NaN where there is none."""
    p_corrected: float
    """After Holm's correction over all numbers that are compared together."""


def paired_by_image(
    values: Mapping[Key, tuple[Values, Values]],
    *,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> dict[Key, RunDifference]:
    """Of values (n,) of A and of B over the same images, NaN where an image has none: the paired
    bootstrap interval (BCa) and the sign-flip test, as between the methods of one run.

    Raises UsageError for infinite values. Keys keep their order.
    """
    both = {key: (as_values(a), as_values(b)) for key, (a, b) in values.items()}
    rows, turned, symmetric = {}, {}, {}
    by_size: defaultdict[int, list[Key]] = defaultdict(list)
    for key, (a, b) in both.items():
        found = np.sort(b - a)  # NaN is sorted to the end
        found = found[: int(np.isfinite(found).sum())]
        opposite = -found[::-1]
        apart = np.flatnonzero(found != opposite)
        symmetric[key] = not len(apart)
        # The bootstrap of d and that of -d draw the same images but not their mirror: of the two,
        # always the same one is made.
        turned[key] = bool(len(apart) and found[apart[0]] < opposite[apart[0]])
        rows[key] = opposite if turned[key] else found
        by_size[len(found)].append(key)
    differences: dict[Key, RunDifference] = {}
    for n, keys in sorted(by_size.items()):
        for some in blocks(keys, n):
            table = np.stack([rows[key] for key in some])
            ends = mean_intervals(table, seed=SEED, resamples=resamples)
            chances = sign_flip_p(table, seed=SEED, flips=flips)
            for key, row, (low, high), p in zip(some, table, ends, chances, strict=True):
                if symmetric[key]:
                    half = (high - low) / 2
                    low, high = -half, half
                elif turned[key]:
                    low, high = -high, -low
                centre = -mean(row) if turned[key] else mean(row)
                means = (_over_both(*both[key]), _over_both(*both[key][::-1]))
                centre, low, high = (_or_zero(one, row) for one in (centre, low, high))
                differences[key] = RunDifference(n, *means, centre, low, high, p, math.nan)
    return corrected({key: differences[key] for key in values})


def paired_by_seed(a: Mapping[int, float], b: Mapping[int, float]) -> RunDifference:
    """Of one value per seed: Student's t over the differences. Both need the same seeds."""
    seeds = sorted(a)
    found = interval([b[seed] - a[seed] for seed in seeds])
    means = [mean(np.array([values[seed] for seed in seeds])) for values in (a, b)]
    if found.sd is None or found.low is None or found.high is None:
        nan = math.nan
        return RunDifference(1, means[0], means[1], found.mean, nan, nan, nan, nan)
    error = found.sd / math.sqrt(found.n)
    p = _student_p(found.mean, error, found.n - 1)
    return RunDifference(
        found.n, means[0], means[1], found.mean, found.low, found.high, p, math.nan
    )


def unpaired(
    a: tuple[float, float | None, int], b: tuple[float, float | None, int]
) -> RunDifference:
    """Of (mean, sample standard deviation, n) each: Welch's t."""
    (mean_a, sd_a, n_a), (mean_b, sd_b, n_b) = a, b
    n, centre, nan = min(n_a, n_b), mean_b - mean_a, math.nan
    if sd_a is None or sd_b is None or n < 2:
        return RunDifference(n, mean_a, mean_b, centre, nan, nan, nan, nan)
    # In an order that does not depend on which run is A: sums of floats do.
    parts = sorted([(sd_a**2 / n_a, n_a), (sd_b**2 / n_b, n_b)])
    error = math.sqrt(parts[0][0] + parts[1][0])
    spread = sum(part**2 / (count - 1) for part, count in parts)
    freedom = error**4 / spread if spread > 0 else float(n_a + n_b - 2)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = _student_p(centre, error, freedom)
    return RunDifference(n, mean_a, mean_b, centre, centre - half, centre + half, p, nan)


def corrected(differences: Mapping[Key, RunDifference]) -> dict[Key, RunDifference]:
    """The same with Holm's correction over all of them that have a p."""
    found = holm([one.p for one in differences.values()])
    pairs = zip(differences.items(), found, strict=True)
    return {key: one._replace(p_corrected=p) for (key, one), p in pairs}


def _student_p(centre: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if centre == 0 else 0.0
    return float(2 * stats.t.sf(abs(centre) / error, freedom))


def _or_zero(value: float, row: NDArray[np.float64]) -> float:
    """0 where only the rounding of sums is left of it, and never -0."""
    return 0.0 if len(row) and abs(value) <= _ROUNDING * np.abs(row).max() else value


def _over_both(values: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Mean of ``values`` over the images for which both have one."""
    return mean(np.sort(values[~np.isnan(values) & ~np.isnan(other)]))


def finite(values: Sequence[float | None] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) with NaN for what is not there, and for what is infinite, of which no mean can be
    taken."""
    found = np.array(values, dtype=np.float64)
    found[~np.isfinite(found)] = math.nan
    return found
