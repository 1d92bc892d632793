"""What an attack on maps may do, and what it wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization, per_channel
from gradattr.errors import UsageError
from gradattr.metrics.map_change import cosine, spearman, top_intersection

AttackKind = Literal["random_sign", "gradient"]
Objective = Literal["spearman", "top_k", "cosine"]


@dataclass(frozen=True)
class AttackSettings:
    """Size of the ball, search and objective of ``attack_maps``.

    Raises UsageError for numbers out of range.
    """

    kind: AttackKind = "random_sign"
    """How the search goes on from the best random corner of the ball."""
    eps: float = 8 / 255
    """Radius of the linf ball, in pixels of 0 to 1."""
    objective: Objective = "spearman"
    """What is brought down: rank correlation, intersection of the top pixels, or cosine."""
    candidates: int = 10
    """Random corners of the ball that are tried first, the same for all methods; 0 or more."""
    steps: int = 20
    """Steps of the search from there, of each method alone; 0 or more."""
    flipped: float = 0.05
    """Of 'random_sign': share of the values that a step sends to the other side of the ball."""
    step: float = 0.25
    """Of 'gradient': length of a step, as a share of eps."""
    beta: float = 20.0
    """Of 'gradient': sharpness of the softplus that takes the place of ReLUs."""
    top: int | None = None
    """Number of top pixels; by default 1000, or 10 % of the pixels where that is fewer."""

    def __post_init__(self) -> None:
        if min(self.candidates, self.steps) < 0 or self.candidates + self.steps == 0:
            raise UsageError(
                f"attack: {self.candidates} candidates and {self.steps} steps; expected 0 or more, "
                "and one at least"
            )
        for name in ("eps", "step", "beta", "flipped"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"attack: {name} {getattr(self, name)}, expected more than 0")
        if self.kind not in ("random_sign", "gradient"):
            raise UsageError(f"attack: kind '{self.kind}', expected random_sign or gradient")
        if self.objective not in ("spearman", "top_k", "cosine"):
            raise UsageError(
                f"attack: objective '{self.objective}', expected spearman, top_k or cosine"
            )

    def likeness(self, before: Tensor, after: Tensor) -> Tensor:
        """(n,) what is to become small; NaN as in ``map_change``."""
        if self.objective == "top_k":
            return top_intersection(before, after, self.top)
        return (spearman if self.objective == "spearman" else cosine)(before, after)


class PixelBall:
    """Points of x (n, c, h, w) within eps of it, pixel by pixel, that are images.

    Pixels lie between black and white, or where x lies if that is outside of them.
    """

    def __init__(self, x: Tensor, normalization: Normalization, eps: float) -> None:
        white, black = per_channel(normalization.white, x), per_channel(normalization.black, x)
        self.radius = eps * (white - black).abs()
        """eps in units of the input; broadcasts to (n, c, h, w)."""
        self.x = x
        self.low = torch.maximum(x - self.radius, torch.minimum(torch.minimum(black, white), x))
        self.high = torch.minimum(x + self.radius, torch.maximum(torch.maximum(black, white), x))

    def move(self, points: Tensor, rows: slice, directions: Tensor) -> Tensor:
        """Points (p, c, h, w) of the balls of the images ``rows``, moved by ``directions`` (in
        radii) and held inside."""
        points = points + self.radius * directions
        return torch.minimum(torch.maximum(points, self.low[rows]), self.high[rows])

    def across(self, points: Tensor, rows: slice, chosen: Tensor) -> Tensor:
        """Points (p, c, h, w) of the balls of ``rows``, with the values ``chosen`` (p, c, h, w) at
        the end of their range that is further away."""
        low, high = self.low[rows], self.high[rows]
        other = torch.where(points - low > high - points, low, high)
        return torch.where(chosen, other, points)
