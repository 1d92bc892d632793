"""The searches of ``attack_maps``: random corners of the ball, then steps of one of two kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradattr.attribution.noise import standard_uniform
from gradattr.metrics.attack_settings import AttackSettings, PixelBall
from gradattr.metrics.map_derivative import likeness_derivative
from gradattr.metrics.repeated_maps import RepeatedMaps, pieces, rows_of

#: (copy, images) -> points in place of these images.
Points = Callable[[int, slice], Tensor]
#: (copy, images, likeness to the map before): what the points were worth.
Heard = Callable[[int, slice, Tensor], None]


@dataclass
class Found:
    """The best point of each image so far, for one method."""

    x: Tensor
    """(n, c, h, w)"""
    before: Tensor
    """Maps at x, (n, c, h, w) or (n, 1, h, w)."""
    settings: AttackSettings
    points: Tensor = field(init=False)
    """(n, c, h, w) the best points, at first x."""
    after: Tensor = field(init=False)
    """Maps there."""
    likeness: Tensor = field(init=False)
    """(n,) of these maps to those before; infinite where nothing was found."""
    lost: Tensor = field(init=False)
    """(n,) how many candidates lost their label."""
    tried: int = 0
    """Candidates per image."""
    derivatives: int = 0
    """Derivatives taken per image."""

    def __post_init__(self) -> None:
        self.points, self.after = self.x.clone(), self.before.clone()
        self.likeness = torch.full((len(self.x),), torch.inf, dtype=torch.float64)
        self.lost = torch.zeros(len(self.x), dtype=torch.float64)

    def offer(self, rows: slice, points: Tensor, maps: Tensor, kept: Tensor) -> Tensor:
        """Candidates in place of the images ``rows``; (p,) the likeness of their maps to those
        before. Where the label is not ``kept`` (p,) it is NaN, and the candidate is rejected."""
        likeness = self.settings.likeness(self.before[rows], maps)
        likeness = likeness.masked_fill(~kept.cpu(), torch.nan)
        self.lost[rows] += (~kept).double().cpu()
        better = likeness < self.likeness[rows]
        self.likeness[rows] = torch.where(better, likeness, self.likeness[rows])
        chosen = better.to(points.device).view(-1, 1, 1, 1)
        self.points[rows] = torch.where(chosen, points, self.points[rows])
        self.after[rows] = torch.where(chosen, maps, self.after[rows])
        return likeness


def try_corners(
    again: RepeatedMaps, ball: PixelBall, candidates: int, found: Sequence[Found]
) -> None:
    """Random corners of the ball, the same for all methods."""

    def corner(copy: int, rows: slice) -> Tensor:
        return ball.move(again.x[rows], rows, random_signs(again, rows, "attack", copy))

    _offer_all(again, candidates, corner, found, range(len(found)))


def follow_differences(
    again: RepeatedMaps, ball: PixelBall, settings: AttackSettings, number: int, best: Found
) -> None:
    """Sign ascent of the method ``number`` by finite differences: every step sends a random share
    of the values of the best point so far to the other side of the ball. Where the difference is a
    gain and the label is kept, that is the best point from then on."""
    for step in range(settings.steps):

        def flipped(_copy: int, rows: slice, step: int = step) -> Tensor:
            uniform = standard_uniform(again.x[rows], again.seeds[rows], "attack step", step)
            return ball.across(best.points[rows], rows, uniform < settings.flipped)

        _offer_all(again, 1, flipped, [best], [number])


def follow_derivative(
    again: RepeatedMaps, ball: PixelBall, settings: AttackSettings, number: int, best: Found
) -> None:
    """Sign steps of the method ``number`` along the derivative of its map's likeness, from the best
    point so far on. Where a step loses the label it is taken back, and the next is half as long.
    """
    current = best.points.clone()
    length = torch.full((len(current),), settings.step, dtype=current.dtype, device=current.device)
    onward = current.clone()
    kept = torch.zeros(len(current), dtype=torch.bool, device=current.device)

    def stepped(_copy: int, rows: slice) -> Tensor:
        slope = likeness_derivative(again, current[rows], rows, number, settings)
        ahead = ball.move(current[rows], rows, -slope.sign() * length[rows].view(-1, 1, 1, 1))
        onward[rows] = ahead
        return ahead

    def hear(_copy: int, rows: slice, likeness: Tensor) -> None:
        kept[rows] = ~likeness.isnan().to(kept.device)

    for _ in range(settings.steps):
        _offer_all(again, 1, stepped, [best], [number], hear)
        best.derivatives += 1
        current.copy_(torch.where(kept.view(-1, 1, 1, 1), onward, current))
        length.copy_(torch.where(kept, length, length / 2))


def random_signs(again: RepeatedMaps, rows: slice, purpose: str, copy: int) -> Tensor:
    """+1 or -1 for each value of the images, from their seeds."""
    uniform = standard_uniform(again.x[rows], again.seeds[rows], purpose, copy)
    return torch.where(uniform < 0.5, -1.0, 1.0).to(again.x.dtype)


def _offer_all(
    again: RepeatedMaps,
    copies: int,
    points_of: Points,
    found: Sequence[Found],
    methods: Sequence[int],
    heard: Heard | None = None,
) -> None:
    """Evaluate ``copies`` candidates per image for some methods, in fused batches."""
    for batch in pieces(len(again.x), copies, again.batch_size):
        parts = [points_of(copy, rows) for copy, rows in batch]
        owners = rows_of(batch, again.x.device)
        there = again.at(torch.cat(parts), owners, methods=methods)
        kept = there.logits.argmax(1) == again.predicted[owners]
        sizes = [len(part) for part in parts]
        for best, maps in zip(found, there.maps, strict=True):
            own_maps, own_kept = torch.split(maps, sizes), torch.split(kept, sizes)
            pairs = zip(batch, parts, own_maps, own_kept, strict=True)
            for (copy, rows), points, own, same in pairs:
                likeness = best.offer(rows, points, own, same)
                if heard is not None:
                    heard(copy, rows, likeness)
    for best in found:
        best.tried += copies
