"""Answers to masked images: what every perturbation method consists of.

The masked images of a block are evaluated many at a time, masks and images together, without a
graph. Memory holds one micro-batch of them, whatever the number of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gradattr.attribution.baselines import Sample
from gradattr.attribution.block import Block
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.procedure import Procedure
from gradattr.attribution.target import Objective
from gradattr.errors import MethodError

#: Numbers of m masks -> the n images of the block behind each, (m, n, c, h, w).
Compose = Callable[[range], Tensor]

#: Numbers of m masks -> the logits behind each, (m * n, classes).
Answer = Callable[[range], Tensor]

#: Points at a time on a CPU, at most: without a backward pass larger batches only leave its caches.
CPU_POINTS = 32


def answered(block: Block, compose: Compose) -> Answer:
    """The answers to composed images."""
    return lambda numbers: block.evaluator.logits(compose(numbers).flatten(0, 1))


def masked_scores(
    block: Block,
    index: Tensor,
    objective: Objective,
    count: int,
    answer: Answer,
    cpu_points: int = CPU_POINTS,
) -> Iterator[tuple[range, Tensor]]:
    """For all ``count`` masks, in order: the numbers of a few, and the scores (m, n) behind them.

    ``index`` (n,): the classes explained. At most ``block.batch_size`` points at a time, and on a
    CPU at most ``cpu_points``.
    """
    points = min(block.batch_size, cpu_points) if block.x.device.type == "cpu" else block.batch_size
    at_once = max(1, points // len(block.x))
    for first in range(0, count, at_once):
        numbers = range(first, min(first + at_once, count))
        scores = objective(answer(numbers), index.repeat(len(numbers)))
        yield numbers, scores.view(len(numbers), -1)


def all_scores(
    block: Block,
    index: Tensor,
    objective: Objective,
    count: int,
    answer: Answer,
    cpu_points: int = CPU_POINTS,
) -> Tensor:
    """(n, count) the scores behind every mask."""
    found = masked_scores(block, index, objective, count, answer, cpu_points)
    parts = [scores for _, scores in found]
    if not parts:
        return torch.empty(len(block.x), 0, dtype=block.x.dtype, device=block.x.device)
    return torch.cat(parts).T


def absent(block: Block, baseline: Start) -> Tensor:
    """x' (n, ...): what stands where a part of the image is taken away.

    The first draw of the baseline; of a pool's images that are explained themselves, the next.
    """
    if isinstance(baseline, Sample):
        return baseline.draw_other(block.x, block.seeds, block.normalization)
    return block.draw(baseline, 0)


def no_image(x: Tensor) -> str | None:
    """Why the inputs x (n, ...) are not images, if they are not."""
    if x.dim() == 4:
        return None
    return (
        f"it masks regions of images (channels, height, width), and the model's inputs have the "
        f"shape {tuple(x.shape[1:])}"
    )


def refuse_obstacles(procedure: Procedure, block: Block) -> None:
    """Raise MethodError if the procedure does not fit what it is given."""
    reason = procedure.obstacle(block.evaluator.network, block.x)
    if reason is not None:
        raise MethodError(reason)
