"""The path of BlurIG: from a blurred image to the image itself, through scale space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gradattr.attribution.block import Block
from gradattr.attribution.quadrature import RuleName, quadrature
from gradattr.attribution.sampling import Pass, Points, joined
from gradattr.attribution.target import Objective

#: The published 50 pixels are of images of 224.
_SIGMA_OF_SIDE = 50 / 224


@dataclass(frozen=True)
class BlurPath:
    """L(x, sigma_k), sigma_k = ``max_sigma`` (1 - alpha_k), with the nodes alpha_k of a rule.

    L is the image under a Gaussian of standard deviation sigma pixels, sampled at the pixels, with
    0 outside of the image (as published; 0 is the mean after normalisation). The displacement of a
    step is dL/dalpha, so that sum_k w_k g_k dL/dalpha is the integral of g along the path.
    ``max_sigma`` None: 50 pixels at 224, in proportion to the longer side. Inputs are (n, ..., H,
    W).
    """

    max_sigma: float | None
    steps: int
    rule: RuleName

    def __post_init__(self) -> None:
        quadrature(self.rule, self.steps)
        if self.max_sigma is not None and not self.max_sigma > 0:
            raise ValueError(f"max_sigma: {self.max_sigma} given, more than 0 expected")

    @property
    def evaluations(self) -> int:
        return self.steps

    def open(self, block: Block) -> Pass:
        return _BlurPass(self, block)

    def largest_sigma(self, x: Tensor) -> float:
        """In pixels, of images x (n, ..., H, W)."""
        return self.max_sigma or _SIGMA_OF_SIDE * max(x.shape[-2:])

    def start(self, x: Tensor) -> Tensor:
        """Where the path begins: x (n, ..., H, W) under the largest blur."""
        return scale_space(x, self.largest_sigma(x))[0]


class _BlurPass:
    displacement = None

    def __init__(self, sampling: BlurPath, block: Block) -> None:
        if block.x.dim() < 3:
            raise ValueError(
                f"blur needs images (n, ..., H, W), not inputs of {tuple(block.x.shape)}"
            )
        self.block = block
        self.alphas, self.weights = quadrature(sampling.rule, sampling.steps)
        self.max_sigma = sampling.largest_sigma(block.x)
        self.start = block.evaluated(sampling.start(block.x))

    @property
    def start_logits(self) -> Tensor | None:
        return self.start.logits

    def points(self, steps: range) -> Points:
        blurred, velocities = [], []
        for step in steps:
            image, slope = scale_space(self.block.x, self.max_sigma * (1 - self.alphas[step]))
            blurred.append(image)
            velocities.append(-self.max_sigma * slope)
        return Points(self.block.evaluator.stem(joined(blurred)), joined(velocities))

    def baseline_score(self, index: Tensor, objective: Objective) -> Tensor | None:
        return objective(self.start.logits, index)


def scale_space(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """L(x, sigma) and dL/dsigma of images x (n, ..., H, W); sigma in pixels, 0 for the image."""
    (rows, d_rows), (columns, d_columns) = (
        [matrix.to(x) for matrix in _blur_matrices(size, sigma)] for size in x.shape[-2:]
    )
    across = x @ columns.T
    return rows @ across, d_rows @ across + rows @ (x @ d_columns.T)


@lru_cache(maxsize=256)
def _blur_matrices(size: int, sigma: float) -> Sequence[Tensor]:
    """(size, size) float64: weights of pixel i's neighbours, and their derivatives in sigma."""
    if sigma == 0:
        return torch.eye(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    reach = max(size, math.ceil(8 * sigma))
    distance = torch.arange(-reach, reach + 1, dtype=torch.float64)
    # d/dsigma of the exponent; an exponential of 0 keeps its derivative 0.
    rate = distance.square() / sigma**3
    tap = torch.softmax(-0.5 * (distance / sigma).square(), 0)
    slope = tap * (rate - (tap * rate).sum())
    place = torch.arange(size)
    away = place[:, None] - place[None, :] + reach
    return tap[away], slope[away]
