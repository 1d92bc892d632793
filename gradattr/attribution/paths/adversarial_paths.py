"""AGI: gradients integrated along adversarial paths, from x to where it is taken for another class.

No baseline needs to be chosen: the model itself says what the image would have to become (Pan, Li,
Zhu 2021). For every other class t, steps of the sign of grad p_t lead from x to x_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradattr.attribution.baselines import per_channel
from gradattr.attribution.block import Block
from gradattr.attribution.evaluator import Choose
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.target import Objective, probability

StepFrom = Literal["current", "original"]


@dataclass(frozen=True)
class AdversarialPaths(Procedure):
    """Mean over classes t of the sum over steps of -g * (x_{j+1} - x_j), x_{j+1} = x_j + ``eps``
    sign grad p_t(x_j), until t is predicted or ``iterations`` steps are done.

    ``eps`` is in pixels of range 1; steps stay between black and white (and the image's own
    values). ``classes``: as many other classes, evenly spaced, or all if there are fewer.
    ``step_from`` 'original' is what the published code does: every step starts at x again, so that
    the path never gets further than ``eps``; its map adds up to nothing in particular.
    """

    iterations: int = 20
    classes: int = 20
    eps: float = 0.05
    step_from: StepFrom = "current"

    def __post_init__(self) -> None:
        for name in ("iterations", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} given, at least 1 expected")
        if not self.eps > 0:
            raise ValueError(f"eps: {self.eps} given, more than 0 expected")
        if self.step_from not in ("current", "original"):
            raise ValueError(f"step_from: '{self.step_from}' given, 'current' or 'original'")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        """Two gradients per step, of p_t and of the score; fewer where t is reached earlier."""
        return 2 * self.iterations * self._led_to(classes)

    def _led_to(self, classes: int) -> int:
        """As many other classes of a model of so many."""
        return max(1, min(self.classes, classes - 1))

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        count = block.own_logits.shape[1]
        if count < 2:
            raise ValueError("adversarial paths lead to another class, and the model has but one")
        others = other_classes(index, count, self._led_to(count))
        maps = torch.zeros_like(block.x)
        score = torch.zeros_like(index, dtype=block.x.dtype)
        sample = torch.arange(len(index), device=index.device).repeat_interleave(others.shape[1])
        pairs = zip(
            torch.split(sample, block.batch_size),
            torch.split(others.flatten(), block.batch_size),
            strict=True,
        )
        for rows, other in pairs:
            part, ends = self._lead(block, block.x[rows], index[rows], other, objective)
            maps.index_add_(0, rows, part / others.shape[1])
            values = objective(block.evaluator.logits(ends), index[rows]).to(score.dtype)
            score.index_add_(0, rows, values / others.shape[1])
        return Made(maps, score if self.step_from == "current" else None)

    def _lead(
        self, block: Block, x: Tensor, index: Tensor, other: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor]:
        """Lead m inputs x (m, ...) to the classes ``other`` (m,): maps and ends (m, ...)."""
        black = per_channel(block.normalization.black, x)
        white = per_channel(block.normalization.white, x)
        low, high = torch.minimum(black, x), torch.maximum(white, x)
        pace = self.eps * (white - black)
        evaluator, points, maps = block.evaluator, x.clone(), torch.zeros_like(x)
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.iterations):
            to, of = other[rows], index[rows]
            h = evaluator.stem(points[rows])
            logits, (adverse, own) = evaluator.logits_and_gradients(
                h, [_choose(to, probability), _choose(of, objective)]
            )
            going = logits.argmax(1) != to
            shape = points[rows].shape
            step = evaluator.pullback(adverse.grads, shape).sign() * pace
            origin = x[rows] if self.step_from == "original" else points[rows]
            there = torch.minimum(torch.maximum(origin + step, low[rows]), high[rows])
            gained = -evaluator.pullback(own.grads, shape) * (there - origin)
            rows = rows[going]
            points[rows] = there[going]
            maps[rows] += gained[going]
            if len(rows) == 0:
                break
        return maps, points


def other_classes(index: Tensor, count: int, wanted: int) -> Tensor:
    """(n, wanted) classes of 0..count-1 other than ``index`` (n,), evenly spaced among them."""
    places = torch.arange(wanted, device=index.device) * (count - 1) // wanted
    return places + (places >= index[:, None])


def _choose(index: Tensor, objective: Objective) -> Choose:
    return lambda _: (index, objective)
