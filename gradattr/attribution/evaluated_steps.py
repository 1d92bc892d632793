"""The steps of a pass, evaluated some at a time and handed out one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradattr.attribution.block import Block
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.paths.path_facts import log_confidence
from gradattr.attribution.sampling import Pass
from gradattr.attribution.target import Objective


@dataclass(frozen=True)
class Scalar:
    """A target on a block: class (n,), scalar, its value at x (n,) and gradient there (n, h)."""

    index: Tensor
    objective: Objective
    score: Tensor
    grads: Tensor | None


@dataclass
class _MicroBatch:
    """Gradients (m, h) of one evaluation; pulled back at most once, and only if asked for."""

    evaluator: Evaluator
    grads: Tensor
    x_shape: torch.Size
    displacement: Tensor | None = None

    @cached_property
    def pulled(self) -> Tensor:
        return self.evaluator.pullback(self.grads, self.x_shape)


@dataclass(frozen=True)
class OneStep:
    """The rows of a micro-batch that belong to one step."""

    weight: float
    batch: _MicroBatch
    rows: slice

    @property
    def grad_h(self) -> Tensor:
        return self.batch.grads[self.rows]

    @property
    def grad_x(self) -> Tensor:
        return self.batch.pulled[self.rows]

    @property
    def displacement(self) -> Tensor | None:
        return None if self.batch.displacement is None else self.batch.displacement[self.rows]


def only_step(evaluator: Evaluator, grads: Tensor | None, x: Tensor) -> OneStep:
    if grads is None:
        raise ValueError("no gradient was taken at the input for this target")
    return OneStep(1.0, _MicroBatch(evaluator, grads, x.shape), slice(None))


def steps_of(opened: Pass, block: Block, scalar: Scalar, along: list[Tensor]) -> Iterator[OneStep]:
    """Evaluate a pass, ``batch_size`` points at a time, and hand it out step by step; of a path
    ``along`` gets the explained class's log-probability (n,) at each."""
    n, count = len(block.x), len(opened.weights)
    at_once = block.batch_size // n
    for first in range(0, count, at_once):
        steps = range(first, min(first + at_once, count))
        batch = _evaluate(opened, steps, block, scalar, along)
        for place, step in enumerate(steps):
            yield OneStep(opened.weights[step], batch, slice(place * n, (place + 1) * n))


def _evaluate(
    opened: Pass, steps: range, block: Block, scalar: Scalar, along: list[Tensor]
) -> _MicroBatch:
    points = opened.points(steps)
    index = scalar.index.repeat(len(steps))
    _, grads, logits = block.evaluator.gradients(points.h, index, scalar.objective)
    if opened.alphas is not None:
        along.extend(log_confidence(logits, index).chunk(len(steps)))
    x_shape = torch.Size((len(index), *block.x.shape[1:]))
    return _MicroBatch(block.evaluator, grads, x_shape, points.displacement)
