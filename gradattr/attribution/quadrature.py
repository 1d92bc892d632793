"""Quadrature on [0, 1]: where the path integral is evaluated, with what weights."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

RuleName = Literal["gauss_legendre", "right", "left", "trapezoid", "midpoint"]


class Rule(NamedTuple):
    """Nodes in [0, 1] and weights that add up to 1, both float64 numbers."""

    alphas: tuple[float, ...]
    weights: tuple[float, ...]


@lru_cache(maxsize=64)
def quadrature(name: RuleName, steps: int) -> Rule:
    """Nodes alpha_k and weights w_k, k = 1..steps: the integral of g is about sum w_k g(alpha_k).

    right: alpha_k = k/n. left: (k-1)/n. midpoint: (k-1/2)/n. trapezoid: n points including both
    ends, the ends with half weight (weights add up to 1, unlike Captum's, which add up to
    (n-1)/n). gauss_legendre: exact for polynomials up to degree 2n-1.

    Raises ValueError for an unknown rule, no steps, or a trapezoid of one point.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps} given, at least 1 expected")
    if name == "gauss_legendre":
        return _gauss_legendre(steps)
    if name == "trapezoid":
        if steps < 2:
            raise ValueError("rule 'trapezoid' needs at least 2 steps: both ends of the path")
        inner = 1 / (steps - 1)
        alphas = tuple(k / (steps - 1) for k in range(steps))
        return Rule(alphas, (inner / 2, *[inner] * (steps - 2), inner / 2))
    offsets = {"right": 1.0, "midpoint": 0.5, "left": 0.0}
    if name not in offsets:
        known = ", ".join([*offsets, "trapezoid", "gauss_legendre"])
        raise ValueError(f"unknown quadrature rule '{name}': expected one of {known}")
    return Rule(tuple((k + offsets[name]) / steps for k in range(steps)), (1 / steps,) * steps)


def _gauss_legendre(n: int) -> Rule:
    """Roots of the Legendre polynomial P_n by Newton's method, moved from [-1, 1] to [0, 1]."""
    k = torch.arange(n, 0, -1, dtype=torch.float64)
    z = torch.cos(math.pi * (k - 0.25) / (n + 0.5))
    for _ in range(10):
        value, slope = _legendre(n, z)
        z = z - value / slope
    _, slope = _legendre(n, z)
    weights = 1 / ((1 - z * z) * slope * slope)
    return Rule(tuple(((1 + z) / 2).tolist()), tuple((weights / weights.sum()).tolist()))


def _legendre(n: int, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """P_n(z) and its derivative by the three-term recurrence."""
    before, value = torch.ones_like(z), z
    for j in range(2, n + 1):
        before, value = value, ((2 * j - 1) * z * value - (j - 1) * before) / j
    return value, n * (z * value - before) / (z * z - 1)
