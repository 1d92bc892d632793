"""Which coordinates of an image come first: ranks, stored once for every level.

Of d coordinates (or pixels) in descending order of |score|, level k keeps the first
``kept(k) = d - round((1 - k) d)`` in its top arm and the last as many in its bottom arm. So a
coordinate's rank need only be known up to the places where some arm of some level begins or ends,
the **cuts**: its **level bin** is the number of cuts at or above it, a byte, and every arm of every
level is a range of bins.

Shapes: n images, c channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gradattr.errors import DataError, UsageError

_MOST_BINS = 256


def kept_count(coordinates: int, level: float) -> int:
    """How many of the coordinates a level keeps: d - round((1 - k) d)."""
    return coordinates - round((1 - level) * coordinates)


@dataclass(frozen=True)
class LevelBins:
    """The bins that serve some levels, of images with so many coordinates."""

    levels: tuple[float, ...]
    """Shares of the coordinates, each in (0, 1]."""
    coordinates: int
    """c * h * w; h * w where pixels are ranked."""

    def __post_init__(self) -> None:
        if self.coordinates < 1 or not self.levels:
            raise UsageError(
                f"level bins: {len(self.levels)} levels of {self.coordinates} coordinates were "
                "given, expected at least one of each"
            )
        wrong = [level for level in self.levels if not 0 < level <= 1]
        if wrong:
            raise UsageError(f"level bins: level {wrong[0]} was given, expected one in (0, 1]")
        if self.bins > _MOST_BINS:
            raise UsageError(
                f"level bins: {len(self.levels)} levels need {self.bins} bins, a byte holds "
                f"{_MOST_BINS}; give fewer levels"
            )

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Ranks at which a bin ends and the next begins, ascending, strictly inside (0, d)."""
        d = self.coordinates
        kept = [kept_count(d, level) for level in self.levels]
        return tuple(sorted({cut for k in kept for cut in (k, d - k) if 0 < cut < d}))

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.cuts) + 1

    def top(self, level: float) -> tuple[int, int]:
        """The bins [low, high) that hold the first ``kept_count`` coordinates."""
        return 0, self._bins_before(kept_count(self.coordinates, level), level)

    def bottom(self, level: float) -> tuple[int, int]:
        """The bins [low, high) that hold the last ``kept_count`` coordinates."""
        first = self.coordinates - kept_count(self.coordinates, level)
        return self._bins_before(first, level), self.bins

    def rest(self, level: float) -> tuple[int, int]:
        """The bins [low, high) of all but the top: what ROAR retrains on."""
        return self.top(level)[1], self.bins

    def rank(
        self,
        scores: Tensor,
        seeds: Sequence[int],
        *,
        ties: Literal["random", "index"] = "random",
        per_pixel: bool = False,
    ) -> Tensor:
        """Scores (n, c, h, w) -> bins (n, c, h, w) uint8, or (n, 1, h, w) with ``per_pixel``.

        The order is by descending \\|score\\|, or by its sum over channels. Equal ones stand in the
        order of a permutation that is drawn for each image from its seed alone (``seeds``, one per
        image), or in the order of their index (channel, row, column). So an image's bins do not
        depend on the others.

        Raises DataError for a NaN, UsageError for scores of another size or too few seeds.
        """
        values = _order_by(scores, per_pixel)
        flat = values.flatten(1)
        if flat.shape[1] != self.coordinates or len(seeds) != len(flat):
            raise UsageError(
                f"level bins: scores {tuple(scores.shape)} with {len(seeds)} seeds were given, "
                f"expected {self.coordinates} {'pixels' if per_pixel else 'coordinates'} and a "
                "seed for each image"
            )
        if ties == "random":
            shuffled = _permutations(seeds, self.coordinates).to(flat.device)
            places = flat.gather(1, shuffled).sort(dim=1, descending=True, stable=True).indices
            order = shuffled.gather(1, places)
        else:
            order = flat.sort(dim=1, descending=True, stable=True).indices
        bins = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
        bins.scatter_(1, order, self._bin_of_rank(flat.device).expand(len(flat), -1))
        return bins.view(values.shape)

    def _bin_of_rank(self, device: torch.device) -> Tensor:
        """(d,) uint8: the bin of each rank."""
        starts = torch.zeros(self.coordinates, dtype=torch.uint8)
        starts[list(self.cuts)] = 1
        return starts.cumsum(0, dtype=torch.uint8).to(device)

    def _bins_before(self, rank: int, level: float) -> int:
        """How many bins lie before a rank, which must be a cut or an end."""
        edges = (0, *self.cuts, self.coordinates)
        if rank not in edges:
            raise UsageError(
                f"level bins: level {level} was asked for, these bins serve "
                f"{', '.join(map(str, self.levels))}"
            )
        return edges.index(rank)


def _order_by(scores: Tensor, per_pixel: bool) -> Tensor:
    """(n, c, h, w) -> (n, c, h, w) or (n, 1, h, w): what is sorted, without NaN."""
    values = scores.abs()
    if per_pixel:
        values = values.sum(dim=1, keepdim=True, dtype=torch.float64)
    missing = values.isnan().flatten(1).any(1)
    if bool(missing.any()):
        raise DataError(
            f"scores: image {int(missing.nonzero()[0])} of {len(scores)} has a score that is NaN; "
            "its coordinates have no order"
        )
    return values


def _permutations(seeds: Sequence[int], size: int) -> Tensor:
    """(n, size) int64: for each seed a permutation."""
    generator = torch.Generator()
    rows = torch.empty(len(seeds), size, dtype=torch.int64)
    for row, seed in zip(rows, seeds, strict=True):
        torch.randperm(size, generator=generator.manual_seed(seed), out=row)
    return rows
