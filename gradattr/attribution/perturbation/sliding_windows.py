"""Occlusion: how the score falls when a sliding window is replaced (Zeiler & Fergus 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.perturbation.changed_regions import changed_regions
from gradattr.attribution.perturbation.masked_inputs import (
    CPU_POINTS,
    Answer,
    absent,
    all_scores,
    answered,
    no_image,
    refuse_obstacles,
)
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.sampling import start_evaluations
from gradattr.attribution.target import Objective

Span = tuple[int, int]

#: Changed regions at a time on a CPU, at most: they are smaller than images.
REGION_POINTS = 64


class Windows(NamedTuple):
    """Half-open ranges of rows and of columns; every pair of them is a window."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def number(self) -> int:
        return len(self.rows) * len(self.columns)

    def place(self, which: int) -> tuple[slice, slice]:
        """Window ``which``, row by row."""
        row, column = divmod(which, len(self.columns))
        return slice(*self.rows[row]), slice(*self.columns[column])


@dataclass(frozen=True)
class Occlusion(Procedure):
    """The map's value at a pixel is the mean, over the windows that cover it, of
    f(x) - f(x with the window replaced by the baseline).

    The window has ``window`` x ``window`` pixels and all channels, so the map has one channel. It
    starts at every ``stride``-th pixel, and one more time where the border is not reached: there
    it is cut off by the border, not moved back. As Captum does it.
    """

    baseline: Start
    window: int | None = None
    """Pixels; None: an eighth of the image's shorter side, at least 1."""
    stride: int | None = None
    """Pixels; None: half the window, at least 1."""

    def __post_init__(self) -> None:
        for name in ("window", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} given, at least 1 expected")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"stride: {self.stride} given, at most the window of {self.window} expected: "
                "pixels between windows would never be covered"
            )

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return self.windows(*shape[-2:]).number + start_evaluations(self.baseline)

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """Window and stride for images of this size, in pixels."""
        window = self.window or max(1, min(height, width) // 8)
        return window, self.stride or max(1, window // 2)

    def windows(self, height: int, width: int) -> Windows:
        """All windows of an image of this size."""
        window, stride = self.sizes(height, width)
        return Windows(_spans(height, window, stride), _spans(width, window, stride))

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        reason = no_image(x)
        if reason is not None:
            return reason
        height, width = x.shape[-2:]
        window, stride = self.sizes(height, width)
        if window > min(height, width):
            return f"its window of {window} pixels is larger than images of {height} x {width}"
        if stride > window:
            return (
                f"its stride of {stride} pixels leaves some of {height} x {width} uncovered by "
                f"windows of {window}; give a larger window"
            )
        return None

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        refuse_obstacles(self, block)
        n, _, height, width = block.x.shape
        windows = self.windows(height, width)
        answer, points = _answers(block, windows, absent(block, self.baseline))
        scores = all_scores(block, index, objective, windows.number, answer, points)
        falls = (objective(block.own_logits, index)[:, None] - scores).double()
        falls = falls.view(n, len(windows.rows), len(windows.columns))
        rows = _mean_over_cover(windows.rows, height).to(falls)
        columns = _mean_over_cover(windows.columns, width).to(falls)
        maps = rows @ falls @ columns.T
        return Made(maps[:, None].to(block.x.dtype))


def _answers(block: Block, windows: Windows, filler: Tensor) -> tuple[Answer, int]:
    """How the answers behind windows are found: from changed regions alone, where that is known;
    and how many at a time on a CPU."""
    regions = changed_regions(block.evaluator, block.x, windows.rows, windows.columns)

    def compose(numbers: range) -> Tensor:
        points = block.x.repeat(len(numbers), 1, 1, 1).view(-1, *block.x.shape)
        for images, which in zip(points, numbers, strict=True):
            rows, columns = windows.place(which)
            images[:, :, rows, columns] = filler[:, :, rows, columns]
        return points

    if regions is None:
        return answered(block, compose), CPU_POINTS

    def answer(numbers: range) -> Tensor:
        places = [divmod(which, len(windows.columns)) for which in numbers]
        spans = [windows.place(which) for which in numbers]
        changed = [(rows, columns, filler[:, :, rows, columns]) for rows, columns in spans]
        return regions.logits(places, changed)

    return answer, REGION_POINTS


def _spans(size: int, window: int, stride: int) -> tuple[Span, ...]:
    count = -(-max(size - window, 0) // stride) + 1
    return tuple((i * stride, min(i * stride + window, size)) for i in range(count))


def _mean_over_cover(spans: Sequence[Span], size: int) -> Tensor:
    """(size, spans) float64: row i averages over the spans that cover place i."""
    covers = torch.zeros(size, len(spans), dtype=torch.float64)
    for number, (first, end) in enumerate(spans):
        covers[first:end, number] = 1
    return covers / covers.sum(1, keepdim=True)
