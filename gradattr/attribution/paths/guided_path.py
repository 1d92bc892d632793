"""Guided IG: the coordinates whose gradients are smallest go first.

A straight path crosses regions where gradients are large and irrelevant to the prediction. The
guided one walks from x' to x along the coordinates of low gradient, within a band around the
straight line (Kapishnikov et al. 2021, Algorithm 1; the published code's choices).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradattr.attribution.block import Block
from gradattr.attribution.paths.path_facts import log_confidence, path_facts
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.sampling import start_evaluations
from gradattr.attribution.target import Objective

#: Distances to go that differ by so little, absolutely or relatively, are equal.
_CLOSE = 1e-9


@dataclass(frozen=True)
class GuidedPath(Procedure):
    """From a baseline x' to x in ``steps`` steps, each of which reduces the L1 distance to x by
    1/steps: the ``fraction`` of the coordinates with the smallest |gradient| move first, no
    coordinate leaves the band of ``max_dist`` around the straight line's place."""

    baseline: Start
    steps: int = 200
    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps} given, at least 1 expected")
        for name in ("fraction", "max_dist"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} given, 0 to 1 expected")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return self.steps + start_evaluations(self.baseline)

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        evaluator, origin = block.evaluator, block.origin(self.baseline)
        # In float64: 1/steps of a distance is told from rounding.
        start = origin.x.flatten(1).double()
        span = block.x.flatten(1).double() - start
        place = torch.zeros_like(span)
        maps = torch.zeros_like(span)
        along = []
        for step in range(self.steps):
            point = (start + span * place).to(block.x.dtype).view_as(block.x)
            _, grads, logits = evaluator.gradients(evaluator.stem(point), index, objective)
            slope = evaluator.pullback(grads, block.x.shape).flatten(1).double()
            along.append(log_confidence(logits, index))
            moved = self.advance(place, span.abs(), slope.abs(), step)
            maps += (moved - place) * span * slope
            place = moved
        end = log_confidence(block.own_logits, index)
        alphas = [step / self.steps for step in range(self.steps)]
        return Made(
            maps.to(block.x.dtype).view_as(block.x),
            objective(origin.logits, index),
            path_facts(log_confidence(origin.logits, index), along, end, alphas),
        )

    def advance(self, place: Tensor, span: Tensor, size: Tensor, step: int) -> Tensor:
        """Where each coordinate (n, d) stands after a step, 0 at x', 1 at x.

        ``place``: before it; ``span``: |x - x'|; ``size``: |gradient| there.
        """
        ahead = (step + 1) / self.steps
        low, high = max(ahead - self.max_dist, 0.0), min(ahead + self.max_dist, 1.0)
        goal = span.sum(1) * (1 - ahead)
        quantile = int(self.fraction * (span.shape[1] - 1)) + 1
        # A coordinate that is at home already has no part in it.
        size = torch.where(span == 0, torch.inf, size)
        underway = span.sum(1) > 0
        while underway.any():
            place = torch.where((place < low) & underway[:, None], low, place)
            left = (span * (1 - place)).sum(1)
            slack = _CLOSE * torch.maximum(left.abs(), goal.abs()).clamp_min(1)
            underway = underway & ((left - goal).abs() > slack)
            size = torch.where(place >= high, torch.inf, size)
            threshold = size.kthvalue(quantile, dim=1, keepdim=True).values
            chosen = (size <= threshold) & torch.isfinite(size)
            within = (span * (high - place) * chosen).sum(1)
            share = ((left - goal) / within).clamp(0, 1)
            # Where all of it does not suffice, the next coordinates follow.
            enough = ~((left - goal) > within)
            target = torch.where(enough[:, None], place + (high - place) * share[:, None], high)
            place = torch.where(chosen & underway[:, None], target, place)
            underway = underway & ~enough & chosen.any(1)
        return place
