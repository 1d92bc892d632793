"""RISE: the mean of random masks, weighted by the score of the image behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.perturbation.masked_inputs import (
    absent,
    answered,
    masked_scores,
    no_image,
    refuse_obstacles,
)
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.sampling import start_evaluations
from gradattr.attribution.target import Objective
from gradattr.seeds import derive_seed


class SmoothMasks:
    """The random masks of RISE for images of one size: numbered, the same on every device.

    Mask k: a grid of ``cells`` x ``cells`` cells, 1 with probability ``keep``, else 0; enlarged
    bilinearly to (cells + 1) cells of ceil(H / cells) x ceil(W / cells) pixels (mirrored at the
    border, as the published code does); and cut out at a random shift of less than a cell. Only
    the grids are held; masks are made when they are asked for.
    """

    def __init__(self, count: int, cells: int, keep: float, like: Tensor) -> None:
        """``like`` (..., H, W): the images' size, dtype and device."""
        self.size = like.shape[-2:]
        generator = torch.Generator().manual_seed(derive_seed("rise"))
        draws = torch.rand(count, cells * cells + 2, generator=generator, dtype=torch.float64)
        self.grids = (draws[:, 2:] < keep).view(-1, cells, cells).to(like)
        sides = [math.ceil(size / cells) for size in self.size]
        self.shifts = (draws[:, :2] * torch.tensor(sides)).long().to(like.device)
        self.enlarge = [_bilinear(cells, (cells + 1) * side).to(like) for side in sides]

    def __call__(self, numbers: range) -> Tensor:
        """(m, H, W) masks between 0 and 1."""
        part = slice(numbers.start, numbers.stop)
        rows, columns = (
            enlarge[shifts[:, None] + torch.arange(size, device=shifts.device)]
            for enlarge, shifts, size in zip(
                self.enlarge, self.shifts[part].unbind(1), self.size, strict=True
            )
        )
        return rows @ self.grids[part] @ columns.mT


@dataclass(frozen=True)
class Rise(Procedure):
    """map = Σ_k f(x ⊙ M_k + x' ⊙ (1 - M_k)) M_k / (samples * keep), with masks M_k as
    ``SmoothMasks`` makes them: the same for every image (Petsiuk et al. 2018, eq. 6).

    x' is the baseline (published: 0 after normalisation). One channel. The published scores are
    probabilities; with scores that can be negative the map has an offset that grows with them.
    """

    baseline: Start
    samples: int = 4000
    cells: int = 7
    keep: float = 0.5

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples: {self.samples} given, at least 1 expected")
        if self.cells < 2:
            raise ValueError(f"cells: {self.cells} given, at least 2 expected")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep: {self.keep} given, a probability between 0 and 1 expected")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return self.samples + start_evaluations(self.baseline)

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        return no_image(x)

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        refuse_obstacles(self, block)
        filler = absent(block, self.baseline)
        masks = SmoothMasks(self.samples, self.cells, self.keep, block.x)
        total = torch.zeros(block.x[:, 0].shape, dtype=torch.float64, device=block.x.device)

        def compose(numbers: range) -> Tensor:
            return torch.lerp(filler, block.x, masks(numbers)[:, None, None])

        found = masked_scores(block, index, objective, self.samples, answered(block, compose))
        for numbers, scores in found:
            total += (scores.T @ masks(numbers).flatten(1)).view_as(total)
        maps = total / (self.samples * self.keep)
        return Made(maps[:, None].to(block.x.dtype))


def _bilinear(cells: int, size: int) -> Tensor:
    """(size, cells) float64: weights that enlarge a row of cells, mirrored at its ends."""
    matrix = torch.zeros(size, cells, dtype=torch.float64)
    for i in range(size):
        place = (i + 0.5) * cells / size - 0.5
        left = math.floor(place)
        for cell, weight in ((left, left + 1 - place), (left + 1, place - left)):
            mirrored = cell % (2 * (cells - 1))
            matrix[i, min(mirrored, 2 * (cells - 1) - mirrored)] += weight
    return matrix
