"""Reductions: from the gradients of a pass to a map.

A pass hands its gradients over one step at a time. *Statistics* add them up in the memory of one
map per sample; a *reduction* turns a statistic into the map. Statistics that are linear in the
gradient add up gradients of stem outputs and are pulled back to the input once; the others need
every gradient pulled back.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor


class Step(Protocol):
    """One step of a pass, for the n samples of a block."""

    @property
    def weight(self) -> float:
        """Quadrature weight, or 1 / number of steps."""

    @property
    def grad_h(self) -> Tensor:
        """Gradient of the scalar in the stem outputs, (n, h)."""

    @property
    def grad_x(self) -> Tensor:
        """The same pulled back to the input, (n, ...)."""

    @property
    def displacement(self) -> Tensor | None:
        """x - x' of this step, (n, ...)."""


class Statistic(Protocol):
    """A streaming sum over the steps of a pass."""

    def add(self, step: Step) -> None: ...

    def finish(self, pullback: Callable[[Tensor], Tensor]) -> Tensor:
        """(n, ...) in input space; ``pullback`` is the transposed stem."""


class MeanGradient:
    """sum_k w_k g_k, added up in stem outputs."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, step: Step) -> None:
        if self.total is None:
            self.total = step.weight * step.grad_h
        else:
            self.total.add_(step.grad_h, alpha=step.weight)

    def finish(self, pullback: Callable[[Tensor], Tensor]) -> Tensor:
        return pullback(_begun(self.total))


class MeanSquare:
    """sum_k w_k g_k^2, elementwise."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, step: Step) -> None:
        if self.total is None:
            self.total = torch.zeros_like(step.grad_x)
        self.total.addcmul_(step.grad_x, step.grad_x, value=step.weight)

    def finish(self, pullback: Callable[[Tensor], Tensor]) -> Tensor:
        return _begun(self.total)


class Variance:
    """sum_k w_k (g_k - mean)^2 / sum_k w_k, elementwise; West's streaming update.

    Mean of squares minus square of mean would lose all digits where gradients hardly differ.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean: Tensor | None = None
        self.total: Tensor | None = None

    def add(self, step: Step) -> None:
        if self.mean is None or self.total is None:
            self.mean = torch.zeros_like(step.grad_x)
            self.total = torch.zeros_like(step.grad_x)
        self.weight += step.weight
        away = step.grad_x - self.mean
        self.mean.add_(away, alpha=step.weight / self.weight)
        self.total.addcmul_(away, step.grad_x - self.mean, value=step.weight)

    def finish(self, pullback: Callable[[Tensor], Tensor]) -> Tensor:
        return _begun(self.total) / self.weight


class MeanDisplaced:
    """sum_k w_k (x_k - x'_k) * g_k, elementwise."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, step: Step) -> None:
        if self.total is None:
            self.total = torch.zeros_like(step.grad_x)
        self.total.addcmul_(_begun(step.displacement), step.grad_x, value=step.weight)

    def finish(self, pullback: Callable[[Tensor], Tensor]) -> Tensor:
        return _begun(self.total)


StatisticType = type[MeanGradient | MeanSquare | Variance | MeanDisplaced]


class Reduction(Enum):
    """What a method makes of the gradients g_k of its pass."""

    MEAN = "mean of g"
    MAGNITUDE = "|mean of g|"
    TIMES_INPUT = "x * mean of g"
    MEAN_SQUARE = "mean of g^2"
    VARIANCE = "variance of g"
    TIMES_DIFFERENCE = "mean of (x - x') * g"

    def statistic(self, *, one_displacement: bool) -> StatisticType:
        """What has to be added up; ``one_displacement``: x - x' is the same at every step."""
        if self is Reduction.MEAN_SQUARE:
            return MeanSquare
        if self is Reduction.VARIANCE:
            return Variance
        if self is Reduction.TIMES_DIFFERENCE and not one_displacement:
            return MeanDisplaced
        return MeanGradient

    def map(self, statistic: Tensor, x: Tensor, displacement: Tensor | None) -> Tensor:
        """The map (n, ...) from the finished statistic; ``displacement`` as in the pass."""
        if self is Reduction.MAGNITUDE:
            return statistic.abs()
        if self is Reduction.TIMES_INPUT:
            return x * statistic
        if self is Reduction.TIMES_DIFFERENCE and displacement is not None:
            return displacement * statistic
        return statistic


def _begun(total: Tensor | None) -> Tensor:
    if total is None:
        raise ValueError("a pass needs at least one step, and displacements where they are used")
    return total
