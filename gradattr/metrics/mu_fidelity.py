r"""MuFidelity (Bhatt et al. 2020): do the parts of a map add up to what taking them away costs?

A grid is laid over the image; random subsets S of its cells are replaced by a fill value. Over the
subsets of an image

.. math:: \mu = corr_S \Big( \sum_{i \in S} A_i,\; f(x) - f(x_{S := fill}) \Big).

On a linear model, with f the logit, the exact contributions A = (x - fill) * w have Pearson's
correlation 1, their negative -1, and a random map 0 in expectation.

Shapes: n images, s subsets, g cells of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.noise import standard_uniform
from gradattr.errors import UsageError
from gradattr.metrics.coordinate_order import known
from gradattr.metrics.masked_forwards import (
    Questions,
    Score,
    as_images,
    refuse_misfits,
    rows_of,
)

#: Sums over subsets that differ by less than this, relative to the map, are equal.
ROUNDING = 1e-12


class MuFidelity(NamedTuple):
    """Correlations of one method over an image's subsets, -1 to 1; higher is better.

    NaN where there is none: the map is not finite, or constant, or its sums over the subsets are
    equal; or every subset costs the same (a saturated model).
    """

    pearson: Tensor
    """(n,) float64."""
    spearman: Tensor
    """(n,) float64; ties at their average rank."""

    @property
    def absolute_pearson(self) -> Tensor:
        """(n,) \\|corr\\|, as UNI's tables have it; 0 to 1."""
        return self.pearson.abs()

    @property
    def absolute_spearman(self) -> Tensor:
        """(n,) \\|corr\\|, as UNI's tables have it; 0 to 1."""
        return self.spearman.abs()


@dataclass(frozen=True)
class Cells:
    """A grid over h x w pixels, of at most ``grid`` x ``grid`` cells.

    Row r lies in cell row ``r * rows // h`` (nearest enlargement). So where the side is not
    divisible the cells' sides differ by one pixel, and in an image smaller than the grid every
    pixel is a cell.
    """

    h: int
    w: int
    grid: int

    @property
    def rows(self) -> int:
        return min(self.grid, self.h)

    @property
    def columns(self) -> int:
        return min(self.grid, self.w)

    def of_pixels(self) -> Tensor:
        """(h * w,) int64: the cell of each pixel."""
        row = torch.arange(self.h) * self.rows // self.h
        column = torch.arange(self.w) * self.columns // self.w
        return (row[:, None] * self.columns + column).flatten()

    def subsets(self, seeds: Sequence[int], count: int, share: float) -> Tensor:
        """(n, count, g) booleans: for each image, random subsets of ``round(share g)`` cells.

        Drawn on the CPU from the image's seed alone: the same on every device.
        """
        cells = self.rows * self.columns
        size = round(share * cells)
        if not 0 < size < cells:
            raise UsageError(
                f"share {share} was given: {size} of {cells} cells; expected a share that takes "
                "at least one cell, and not all"
            )
        found = torch.zeros(len(seeds), count, cells, dtype=torch.bool)
        for row, seed in zip(found, seeds, strict=True):
            drawn = standard_uniform(torch.empty(1, count, cells), [seed], "subsets of cells")[0]
            row.scatter_(1, drawn.topk(size, dim=1, sorted=False).indices, True)
        return found


def mu_fidelity(
    evaluator: Evaluator,
    x: Tensor,
    maps: Sequence[Tensor],
    index: Tensor,
    *,
    seeds: Sequence[int],
    subsets: int = 200,
    share: float = 0.25,
    grid: int = 9,
    fill: float | Tensor = 0.0,
    score: Score = "prob",
    batch_size: int,
    unchanged: Tensor | None = None,
) -> list[MuFidelity]:
    """MuFidelity of each of ``maps`` on x (n, c, h, w), for the classes ``index`` (n,).

    ``subsets`` random subsets of ``share`` of the cells of a ``grid`` x ``grid`` grid, drawn from
    the image's seed; ``fill``: a number, or what broadcasts over x; ``unchanged`` (n,): scores of x
    where they are known (``image_scores``). No model evaluation depends on the maps: all methods
    share them.

    Raises UsageError for shapes or numbers that do not fit.
    """
    refuse_misfits(x, maps, index, seeds, score)
    if subsets < 2 or grid < 1:
        raise UsageError(
            f"subsets {subsets}, grid {grid} were given, expected at least 2 subsets of a grid of "
            "at least 1"
        )
    questions = Questions(evaluator, index, score, batch_size)
    cells = Cells(x.shape[2], x.shape[3], grid)
    taken = cells.subsets(seeds, subsets, share)
    whole = questions.of_unchanged(x, unchanged)
    masked = _masked(x, as_images(fill, x), taken, cells.of_pixels(), batch_size)
    drops = whole[:, None] - questions.of_changed(masked).scores.view(len(x), subsets)
    return [_correlations(given, taken, cells.of_pixels(), drops) for given in maps]


def _masked(
    x: Tensor, fill: Tensor, taken: Tensor, cell_of_pixel: Tensor, points: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image under every subset, image by image: (images changed, numbers of the images)."""
    n, subsets, _ = taken.shape
    cell_of_pixel = cell_of_pixel.to(x.device)
    for first in range(0, n * subsets, points):
        jobs = torch.arange(first, min(first + points, n * subsets))
        numbers = jobs // subsets
        chosen = taken[numbers, jobs % subsets].to(x.device)
        mask = chosen[:, cell_of_pixel].view(len(jobs), 1, *x.shape[2:])
        yield torch.where(mask, rows_of(fill, numbers), rows_of(x, numbers)), numbers


def _correlations(given: Tensor, taken: Tensor, cell_of_pixel: Tensor, drops: Tensor) -> MuFidelity:
    """A method's correlations, from its maps (n, c, h, w) and the drops (n, s)."""
    pixels = given.sum(1, dtype=torch.float64).cpu().flatten(1)
    cells = torch.zeros(len(pixels), taken.shape[2], dtype=torch.float64)
    cells.index_add_(1, cell_of_pixel, pixels)
    sums = torch.einsum("nsg,ng->ns", taken.double(), cells)
    size = pixels.abs().sum(1)
    exists = known(given) & (_spread(pixels) > 0) & (_spread(sums) > ROUNDING * size)
    exists &= _spread(drops) > 0
    parts, costs = sums.numpy(), drops.numpy()
    pearson = _pearson(parts, costs)
    spearman = _pearson(stats.rankdata(parts, axis=1), stats.rankdata(costs, axis=1))
    return MuFidelity(pearson.where(exists, torch.nan), spearman.where(exists, torch.nan))


def _spread(values: Tensor) -> Tensor:
    if not values.numel():
        return values.new_empty(len(values))
    return values.amax(1) - values.amin(1)


def _pearson(first: np.ndarray, second: np.ndarray) -> Tensor:
    """Correlation of the rows of (n, s) and (n, s): (n,)."""
    a, b = (values - values.mean(1, keepdims=True) for values in (first, second))
    products = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return torch.from_numpy((a * b).sum(1) / products).clamp(-1, 1)
