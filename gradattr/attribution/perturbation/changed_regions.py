"""Answers to images of which one window is changed, from the activations of the whole image.

Behind a local stage, only a region around the window is different: it alone is computed, on a crop
that is large enough, and put into the activations of the unchanged image. What follows the last
stage, where the region has grown to most of the image, is computed as always. The answers are
those of the whole network, up to rounding.

Along an axis, a stage maps positions 0..size-1 to 0..size_out-1; a span is [first, end).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.perturbation.local_stages import (
    Reach,
    Stage,
    local_stages,
    nodes_behind,
    run_nodes,
)
from gradattr.attribution.tuning.tuned import TunedEvaluator

Span = tuple[int, int]

#: A crop of more of the image than this is not worth the copies.
WORTH_CROPPING = 0.7


@dataclass(frozen=True)
class Axis:
    """How a stage's crops lie along one axis, one per changed span; all have the same size."""

    size: int
    """Of a crop."""
    starts: tuple[int, ...]
    """Of the crops, in the stage's input."""
    changed: tuple[Span, ...]
    """What may be different in the stage's output: spans of the same length."""
    inside: tuple[int, ...]
    """Where these begin in the stage's output of the crop."""


def crops(spans: Sequence[Span], size: int, size_out: int, reach: Reach) -> Axis:
    """Crops from which the outputs that depend on these inputs follow exactly.

    The edges of a crop are either edges of the image, where padding is what it is, or so far off
    that no output that counts depends on what is beyond. Crops begin at multiples of the stride,
    so that outputs lie where they do in the whole image.
    """
    stride, before, after = reach
    first = [max(0, -(-(start - after) // stride)) for start, _ in spans]
    end = [min(size_out, (stop - 1 + before) // stride + 1) for _, stop in spans]
    length = max(b - a for a, b in zip(first, end, strict=True))
    first = [min(a, size_out - length) for a in first]
    needed = (length - 1) * stride + before + after + 1 + (stride - 1)
    crop = size - max(0, size - needed) // stride * stride
    starts = [min(max(0, a * stride - before) // stride * stride, size - crop) for a in first]
    return Axis(
        crop,
        tuple(starts),
        tuple((a, a + length) for a in first),
        tuple(a - start // stride for a, start in zip(first, starts, strict=True)),
    )


class ChangedRegions:
    """n images x (n, c, h, w) of which windows will be changed, ``rows`` x ``columns`` of them."""

    def __init__(
        self,
        stages: Sequence[Stage],
        whole: Sequence[Tensor],
        axes: Sequence[tuple[Axis, Axis]],
        rest: Callable[[Tensor], Tensor],
    ) -> None:
        """``whole``: the activations (n, ...) before each stage and after the last."""
        self.stages = stages
        self.whole = whole
        self.axes = axes
        self.rest = rest

    def logits(self, places: Sequence[tuple[int, int]], windows: Sequence[Window]) -> Tensor:
        """(m * n, classes) for m changed windows; image by image for the first, and so on.

        ``places``: the number of each window's span among the rows and among the columns.
        """
        pieces = [(rows.start, columns.start, content) for rows, columns, content in windows]
        for stage, whole, (rows, columns) in zip(self.stages, self.whole, self.axes, strict=False):
            corners = [(rows.starts[r], columns.starts[c]) for r, c in places]
            found = stage(_composed(whole, (rows.size, columns.size), corners, pieces))
            found = found.view(len(places), -1, *found.shape[1:])
            high = rows.changed[0][1] - rows.changed[0][0]
            wide = columns.changed[0][1] - columns.changed[0][0]
            pieces = [
                (
                    rows.changed[r][0],
                    columns.changed[c][0],
                    part.narrow(2, rows.inside[r], high).narrow(3, columns.inside[c], wide),
                )
                for part, (r, c) in zip(found, places, strict=True)
            ]
        last = self.whole[-1]
        return self.rest(_composed(last, last.shape[2:], [(0, 0)] * len(places), pieces))


Window = tuple[slice, slice, Tensor]
"""Rows, columns, and what stands there (n, c, rows, columns)."""


def changed_regions(
    evaluator: Evaluator, x: Tensor, rows: Sequence[Span], columns: Sequence[Span]
) -> ChangedRegions | None:
    """For windows at these spans; None where nothing is gained, or the network is not known.

    On the CPU only: elsewhere many small copies cost what the crops save.
    """
    if not isinstance(evaluator, TunedEvaluator) or x.device.type != "cpu":
        return None
    graph, front = evaluator.rest, evaluator.front
    if not isinstance(graph, fx.GraphModule):
        return None
    stages, end = _stages(graph, None if front is None else front.graph)
    whole = [x.contiguous(memory_format=torch.channels_last) if evaluator.channels_last else x]
    axes: list[tuple[Axis, Axis]] = []
    for stage in stages:
        before, after = whole[-1], stage(whole[-1])
        down = crops(rows, before.shape[2], after.shape[2], stage.reaches[0])
        across = crops(columns, before.shape[3], after.shape[3], stage.reaches[1])
        share = down.size * across.size / (before.shape[2] * before.shape[3])
        if share > WORTH_CROPPING:
            end = stage.start if stage.graph is graph else None
            break
        whole.append(after)
        axes.append((down, across))
        rows, columns = down.changed, across.changed
    if not axes or end is None:
        return None
    last, behind = end, tuple(nodes_behind(graph, end))

    def rest(h: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = run_nodes(graph, {last: h}, behind)
        return logits

    return ChangedRegions(stages[: len(axes)], whole, axes, rest)


def _stages(
    rest: fx.GraphModule, front: fx.GraphModule | None
) -> tuple[list[Stage], fx.Node | None]:
    """Of a stem, if there is one, and the rest; none if the stem is not local throughout."""
    stages, end = local_stages(rest)
    if front is None:
        return stages, end
    first, last = local_stages(front)
    (output,) = (node for node in front.graph.nodes if node.op == "output")
    return (first + stages, end) if output.args[0] is last else ([], None)


def _composed(
    whole: Tensor,
    size: Sequence[int],
    corners: Sequence[tuple[int, int]],
    pieces: Sequence[tuple[int, int, Tensor]],
) -> Tensor:
    """(m * n, c, *size) crops of the whole (n, c, ...) at m corners, a piece put into each."""
    n, channels = whole.shape[:2]
    layout = (
        torch.channels_last
        if whole.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    points = torch.empty(len(corners) * n, channels, *size, dtype=whole.dtype, memory_format=layout)
    parts = torch.split(points, n)
    for crop, (top, left), (row, column, piece) in zip(parts, corners, pieces, strict=True):
        crop.copy_(whole[:, :, top : top + size[0], left : left + size[1]])
        high, wide = piece.shape[2:]
        crop[:, :, row - top : row - top + high, column - left : column - left + wide] = piece
    return points
