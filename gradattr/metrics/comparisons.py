r"""Which of several methods is better, on the same images, and which cannot be told apart.

Two methods are compared by the differences :math:`d_i = a_i - b_i` over the images for which both
have a value: what is hard about an image is hard for both, and drops out.

**Interval.** The bootstrap of `statistics` over the differences. Drawing images and subtracting
the two means gives the same number as drawing differences, so this is the paired bootstrap.

**p.** Sign flips: were the methods exchangeable, an image's difference were as likely to have the
other sign, so p is the share of the sign patterns :math:`s` with
:math:`|\sum s_i d_i| \ge |\sum d_i|`. Unlike a p read off a bootstrap it keeps its level at any
number of images. With at most ``flips`` patterns all are counted; otherwise ``flips`` random ones,
and the observed one with them, so p is never 0. Above `GROUPS` images, images are put into that
many groups at random and flipped a group at a time: these flips are a subgroup of all, so the test
is still exact, and it costs the same for a thousand images and for a million.

**Many comparisons.** Holm (1979): the probability of one false difference among all pairs is at
most the level, whatever the pairs have to do with each other.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gradattr.errors import UsageError
from gradattr.metrics.statistics import (
    LEVEL,
    RESAMPLES,
    IntervalKind,
    Values,
    as_values,
    blocks,
    mean,
    mean_intervals,
)
from gradattr.seeds import derive_seed

#: Random sign patterns. Holm multiplies by the number of pairs: the smallest corrected p of
#: 20 methods (190 pairs) is then 190 / 20 001, still below 0.01.
FLIPS = 20_000
#: Images, or groups of images, that are flipped independently.
GROUPS = 1024
#: Sums of flipped differences are equal up to rounding, relative to the sum of |d|.
_ROUNDING = 1e-12
_SIGNS_AT_ONCE = 2**21


class Difference(NamedTuple):
    """``first`` less ``second``, over the images for which both have a value."""

    first: str
    second: str
    """Later than ``first`` in the alphabet."""
    n: int
    """Images for which both have a value."""
    mean: float
    """In the metric's unit; above 0 if ``first`` has the higher values. NaN for n = 0."""
    low: float
    """Lower end of the bootstrap interval of the mean; NaN for n < 2."""
    high: float
    p: float
    """Of the sign-flip test, two-sided, in (0, 1]; NaN for n = 0."""
    p_corrected: float
    """After Holm's correction over all pairs that have a p."""


class Ranked(NamedTuple):
    """Where a method stands among the others; 1 is best."""

    method: str
    n: int
    """Images for which every ranked method has a value."""
    mean_rank: float
    """Mean over those images of the method's rank, 1 to the number of methods, ties at their
    average. NaN if the method has no value at all, or there is no such image."""
    rank: int | None
    """1 + number of methods with a smaller mean rank; None where that is NaN."""
    tied_with: tuple[str, ...]
    """Methods whose mean is not told apart from this one's after correction."""


def paired_differences(
    values: Mapping[str, Values],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    level: float = LEVEL,
    interval: IntervalKind = "bca",
) -> list[Difference]:
    """Every pair of methods compared, for values (n,) by method; NaN where an image has none.

    Pairs are in alphabetical order. All but ``p_corrected`` is a function of the pair's own values
    and of the seed, whatever the order of the images, and whatever other methods there are. Raises
    UsageError for values of different length, infinite ones, or numbers out of range.
    """
    columns = _columns(values)
    if flips < 1:
        raise UsageError(f"sign flips: {flips} were asked for, expected 1 or more")
    pairs = list(itertools.combinations(sorted(columns), 2))
    by_size: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for first, second in pairs:
        both = ~np.isnan(columns[first]) & ~np.isnan(columns[second])
        by_size[int(both.sum())].append((first, second))
    found: dict[tuple[str, str], Difference] = {}
    for n, of_size in sorted(by_size.items()):
        for some in blocks(of_size, n):
            rows = np.empty((len(some), n))
            for row, (first, second) in zip(rows, some, strict=True):
                row[:] = np.sort(columns[first] - columns[second])[:n]  # NaN is sorted to the end
            ends = mean_intervals(
                rows, seed=seed, resamples=resamples, level=level, interval=interval
            )
            chances = sign_flip_p(rows, seed=seed, flips=flips)
            for pair, row, (low, high), p in zip(some, rows, ends, chances, strict=True):
                found[pair] = Difference(*pair, n, mean(row), low, high, p, math.nan)
    corrected = holm([found[pair].p for pair in pairs])
    return [found[pair]._replace(p_corrected=p) for pair, p in zip(pairs, corrected, strict=True)]


def sign_flip_p(rows: NDArray[np.float64], *, seed: int, flips: int = FLIPS) -> list[float]:
    """Two-sided p of the sign-flip test that the differences have mean 0, per row of (k, n).

    The rows must be sorted, so that p ignores the order of images. Differences of 0 say nothing;
    p is 1 if all are 0, NaN for n = 0. -d has the p of d.
    """
    chances = [math.nan if not rows.shape[1] else 1.0] * len(rows)
    waiting: defaultdict[int, list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
    for at, row in enumerate(rows):
        parts = _flipped_parts(row, seed)
        if not len(parts):
            continue
        if len(parts) <= 62 and 2 ** len(parts) <= flips:
            chances[at] = float((_sums(_all_signs(len(parts)), parts[:, None]) >= 1).mean())
        else:
            waiting[_width(len(parts))].append((at, parts))
    for width, some in waiting.items():
        table = np.zeros((width, len(some)))
        for column, (_, parts) in enumerate(some):
            table[: len(parts), column] = parts
        beyond = _beyond(table, seed, flips)
        for (at, _), count in zip(some, beyond, strict=True):
            chances[at] = (1 + int(count)) / (1 + flips)
    return chances


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's corrected p of each p: the running maximum of min(1, (m - j) p_(j)), j = 0, 1, ...

    in ascending order of p, m their number. NaN stays NaN and is not counted.
    """
    order = sorted(
        (at for at, p in enumerate(chances) if not math.isnan(p)), key=chances.__getitem__
    )
    corrected = [math.nan] * len(chances)
    largest = 0.0
    for place, at in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * chances[at]))
        corrected[at] = largest
    return corrected


def ranking(
    values: Mapping[str, Values],
    differences: Sequence[Difference],
    *,
    higher_is_better: bool,
    alpha: float = 0.05,
) -> list[Ranked]:
    """Methods by their mean rank over images, the best first, equal ones in alphabetical order.

    ``values`` (n,) by method; ``differences`` are those of `paired_differences` of the same
    values: two methods are tied if their corrected p is not below ``alpha``, or there is none.
    Only images for which every method has a value count, so that all are ranked on the same ones;
    a method that has no value at all stands last and takes no image away.
    """
    columns = _columns(values)
    compared = {frozenset((one.first, one.second)): one.p_corrected for one in differences}
    names = sorted(columns)
    ranked = [name for name in names if not np.isnan(columns[name]).all()]
    n, mean_ranks = 0, dict.fromkeys(names, math.nan)
    if ranked:
        table = np.stack([columns[name] for name in ranked], axis=1)
        table = table[~np.isnan(table).any(axis=1)]
        n = len(table)
        if n:
            ranks = rankdata(-table if higher_is_better else table, axis=1)
            # Halves: their sum is exact in any order.
            mean_ranks.update(zip(ranked, (ranks.sum(axis=0) / n).tolist(), strict=True))
    found = []
    for name in names:
        own = mean_ranks[name]
        better = sum(other < own for other in mean_ranks.values())
        tied = tuple(
            other
            for other in names
            if other != name and not _compared(compared, name, other) < alpha
        )
        found.append(Ranked(name, n, own, None if math.isnan(own) else 1 + better, tied))
    return sorted(found, key=lambda one: (one.rank is None, one.rank or 0, one.method))


def _compared(compared: Mapping[frozenset[str], float], first: str, second: str) -> float:
    pair = frozenset((first, second))
    if pair not in compared:
        raise UsageError(
            f"ranking: no difference between {first!r} and {second!r} was given; expected those "
            "that paired_differences finds in the same values"
        )
    return compared[pair]


def _columns(values: Mapping[str, Values]) -> dict[str, NDArray[np.float64]]:
    columns = {name: as_values(each) for name, each in values.items()}
    lengths = {name: len(each) for name, each in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(
            f"methods have values of different numbers of images: {lengths}; expected one value "
            "per method and image, NaN where there is none"
        )
    return columns


def _flipped_parts(row: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """What is flipped independently, divided by |sum d|: so the observed sum is 1.

    Sums that would be 0 have p = 1, whatever the signs: one part.
    """
    row = row[row != 0]
    if not len(row):
        return row
    if len(row) > GROUPS:
        if math.fsum(row) < 0:  # the same parts for d and -d
            row = -row[::-1]
        places = np.random.default_rng(derive_seed(seed, "sign groups", len(row)))
        group = places.permutation(len(row)) % GROUPS
        row = np.bincount(group, weights=row, minlength=GROUPS).astype(np.float64)
    parts = np.sort(np.abs(row))[::-1]
    # Rounding must not decide whether a sum reaches the observed one.
    reached = abs(math.fsum(row)) - _ROUNDING * float(parts.sum())
    return parts / reached if reached > 0 else np.ones(1)


def _sums(signs: NDArray[np.float64], parts: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.abs(signs @ parts)
    return found


def _all_signs(count: int) -> NDArray[np.float64]:
    """(2^count, count) of -1 and 1."""
    patterns = np.arange(2**count)[:, None] >> np.arange(count)
    return (2 * (patterns & 1) - 1).astype(np.float64)


def _width(parts: int) -> int:
    """Power of two: pairs of about equal size share their signs, whatever other pairs there are."""
    return max(8, 1 << (parts - 1).bit_length())


def _beyond(table: NDArray[np.float64], seed: int, flips: int) -> NDArray[np.int64]:
    """(k,): how many random sign patterns reach 1, for parts (width, k)."""
    width = len(table)
    random = np.random.default_rng(derive_seed(seed, "sign flips", width))
    counts = np.zeros(table.shape[1], dtype=np.int64)
    at_once = max(1, _SIGNS_AT_ONCE // width)
    for first in range(0, flips, at_once):
        some = min(at_once, flips - first)
        drawn = np.frombuffer(random.bytes(some * width // 8), dtype=np.uint8)
        signs = np.unpackbits(drawn).reshape(some, width).astype(np.float64)
        signs = 2 * signs - 1
        counts += (_sums(signs, table) >= 1).sum(axis=0)
    return counts
