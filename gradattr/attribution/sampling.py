"""Samplings: at which points the gradient of one sample is evaluated, with what weights.

A sampling is a small frozen value. Methods whose samplings are equal, and whose target is the same
scalar, see the same gradients: the pass is made once for all of them. ``open`` starts the pass for
a block of samples; the points it then makes, a few steps at a time, are stem outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gradattr.attribution.baselines import value_range
from gradattr.attribution.block import Block
from gradattr.attribution.noise import standard_normal, uniform_numbers
from gradattr.attribution.paths.unlearning import Start, Unlearned
from gradattr.attribution.quadrature import RuleName, quadrature
from gradattr.attribution.target import Objective


class Points(NamedTuple):
    """Some steps of a pass, step by step: stem outputs (steps * n, h) and, if they have one each,
    displacements x - x' (steps * n, ...)."""

    h: Tensor
    displacement: Tensor | None


class Pass(Protocol):
    """A sampling at work on one block."""

    @property
    def weights(self) -> Sequence[float]:
        """One per step; they add up to 1."""

    @property
    def displacement(self) -> Tensor | None:
        """x - x' (n, ...) where it is the same at every step."""

    @property
    def alphas(self) -> Sequence[float] | None:
        """Where on one path from x' (0) to x (1) the steps lie, in ascending order; None if there
        is no such path, or its steps are not in order."""

    @property
    def start_logits(self) -> Tensor | None:
        """(n, classes) at x', where there is a path."""

    def points(self, steps: range) -> Points:
        """The points of these steps, for all samples of the block."""

    def baseline_score(self, index: Tensor, objective: Objective) -> Tensor | None:
        """(n,) mean of the target scalar over the baselines; None without baselines."""


class Sampling(Protocol):
    """Which points; comparable, hashable."""

    @property
    def evaluations(self) -> int:
        """Forward-and-backward passes per sample."""

    def open(self, block: Block) -> Pass: ...


@dataclass(frozen=True)
class AtInput:
    """The sample itself. Shares its forward pass with the prediction."""

    evaluations = 1


@dataclass(frozen=True)
class NoisyCopies:
    """x + sigma * (max x - min x) * n_k for n_k ~ N(0, 1), k = 1..samples."""

    samples: int
    sigma: float

    def __post_init__(self) -> None:
        _require(self.samples >= 1, f"samples: {self.samples} given, at least 1 expected")
        _require(self.sigma >= 0, f"sigma: {self.sigma} given, at least 0 expected")

    @property
    def evaluations(self) -> int:
        return self.samples

    def open(self, block: Block) -> Pass:
        return _NoisyPass(self, block)


@dataclass(frozen=True)
class StraightPath:
    """x' + alpha_k (x - x') with the nodes alpha_k of a quadrature rule on [0, 1]."""

    baseline: Start
    steps: int
    rule: RuleName

    def __post_init__(self) -> None:
        quadrature(self.rule, self.steps)

    @property
    def evaluations(self) -> int:
        return self.steps + start_evaluations(self.baseline)

    def open(self, block: Block) -> Pass:
        return _StraightPass(self, block)


@dataclass(frozen=True)
class RandomPaths:
    """x'_k + a_k (x + stdev n_k - x'_k), a_k ~ U[0, 1), n_k ~ N(0, 1), k = 1..samples."""

    baseline: Start
    samples: int
    stdev: float = 0.0

    def __post_init__(self) -> None:
        _require(self.samples >= 1, f"samples: {self.samples} given, at least 1 expected")
        _require(self.stdev >= 0, f"stdev: {self.stdev} given, at least 0 expected")

    @property
    def evaluations(self) -> int:
        return self.samples + start_evaluations(self.baseline)

    def open(self, block: Block) -> Pass:
        if self.baseline.varies or self.stdev > 0:
            return _WanderingPass(self, block)
        return _OnePathPass(self, block)


class _NoisyPass:
    displacement = None
    alphas = None
    start_logits = None

    def __init__(self, sampling: NoisyCopies, block: Block) -> None:
        self.block = block
        self.sigma = sampling.sigma
        self.weights = [1 / sampling.samples] * sampling.samples

    def points(self, steps: range) -> Points:
        block = self.block
        copies = [noisy_copy(block.x, block.seeds, self.sigma, step) for step in steps]
        return Points(block.evaluator.stem(joined(copies)), None)

    def baseline_score(self, index: Tensor, objective: Objective) -> Tensor | None:
        return None


class _FixedEndsPass:
    """Both ends are the same at every step, so the path is straight in stem outputs too."""

    def __init__(self, baseline: Start, block: Block) -> None:
        self.block = block
        self.start = block.origin(baseline)
        self.displacement = block.x - self.start.x

    @property
    def start_logits(self) -> Tensor | None:
        return self.start.logits

    def between(self, alphas: Sequence[Tensor | float]) -> Points:
        """h' + alpha (h - h') for each alpha: a number, or one per sample (n,)."""
        steps = [torch.lerp(self.start.h, self.block.h, alpha) for alpha in alphas]
        return Points(joined(steps), None)

    def baseline_score(self, index: Tensor, objective: Objective) -> Tensor | None:
        return objective(self.start.logits, index)


class _StraightPass(_FixedEndsPass):
    def __init__(self, sampling: StraightPath, block: Block) -> None:
        super().__init__(sampling.baseline, block)
        self.alphas, self.weights = quadrature(sampling.rule, sampling.steps)

    def points(self, steps: range) -> Points:
        return self.between([self.alphas[step] for step in steps])


class _OnePathPass(_FixedEndsPass):
    """Random points of one path per sample."""

    alphas = None

    def __init__(self, sampling: RandomPaths, block: Block) -> None:
        super().__init__(sampling.baseline, block)
        self.weights = [1 / sampling.samples] * sampling.samples

    def points(self, steps: range) -> Points:
        return self.between([_alphas(self.block, self.block.h, step) for step in steps])


class _WanderingPass:
    """Every step has a baseline, and with ``stdev`` an end, of its own."""

    displacement = None
    alphas = None
    start_logits = None

    def __init__(self, sampling: RandomPaths, block: Block) -> None:
        self.sampling = sampling
        self.block = block
        self.weights = [1 / sampling.samples] * sampling.samples

    def points(self, steps: range) -> Points:
        block, stdev = self.block, self.sampling.stdev
        points, displacements = [], []
        for step in steps:
            start = block.draw(self.sampling.baseline, step)
            end = block.x
            if stdev > 0:
                end = end + stdev * standard_normal(block.x, block.seeds, "noise", step)
            points.append(torch.lerp(start, end, _alphas(block, block.x, step)))
            displacements.append(end - start)
        return Points(block.evaluator.stem(joined(points)), joined(displacements))

    def baseline_score(self, index: Tensor, objective: Objective) -> Tensor | None:
        sampling = self.sampling
        return self.block.mean_score(sampling.baseline, sampling.samples, index, objective)


def noisy_copy(x: Tensor, seeds: Sequence[int], sigma: float, copy: int) -> Tensor:
    """x + sigma * (max x - min x) * n_k of samples x (n, ...), for k = ``copy``."""
    return x + sigma * value_range(x) * standard_normal(x, seeds, "noise", copy)


def start_evaluations(baseline: Start) -> int:
    """Model evaluations per sample that finding a baseline takes, once for all methods."""
    return baseline.evaluations if isinstance(baseline, Unlearned) else 0


def _alphas(block: Block, like: Tensor, step: int) -> Tensor:
    """a_k of each sample, shaped (n, 1, ...) to go with ``like``."""
    numbers = uniform_numbers(block.seeds, "alpha", step)
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(
        -1, *[1] * (like.dim() - 1)
    )


def joined(steps: list[Tensor]) -> Tensor:
    """Steps below one another; a single one as it is, in the memory format that it has."""
    return steps[0] if len(steps) == 1 else torch.cat(steps)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
