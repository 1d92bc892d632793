r"""Multipliers: derivatives that are exact over the whole way from a reference to the input.

A multiplier of y = f(a) with respect to the reference a' is the gradient of f averaged along the
straight line from a' to a,

.. math:: m_i = \int_0^1 \partial_i f(a' + t (a - a')) dt, \qquad
          \sum_i m_i (a_i - a'_i) = f(a) - f(a').

For a function of one variable that is the secant, the rescale rule of DeepLIFT. For a product it is
the mean of the other factor's two values; for a maximum, the share of the way on which a candidate
is the largest. All of them are in closed form, so that they add up exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[[Tensor], Tensor]


class Multiplied(torch.autograd.Function):
    """f(a), element by element, whose derivative is a given multiplier."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, find: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """``find(a)`` gives f(a) and the multiplier."""
        value, multiplier = find(a)
        ctx.save_for_backward(multiplier)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (multiplier,) = ctx.saved_tensors
        return grad * multiplier, None


def secant_of_relu(a: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """max(a, 0) and its secant; the derivative where a = a'. Exact however close they are."""
    value = torch.relu(a)
    step = a - reference
    secant = (value - torch.relu(reference)).div_(step)
    return value, torch.where(step == 0, (value > 0).to(secant.dtype), secant)


def secant_with_slope(a: Tensor, reference: Tensor, slope: Tensor | float) -> tuple[Tensor, Tensor]:
    """max(a, 0) + slope min(a, 0) and its secant; a slope that broadcasts along a."""
    value, share = secant_of_relu(a, reference)
    return value + slope * (a - value), share + slope * (1 - share)


def secant(function: Function, a: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    r"""f(a) and (f(a) - f(a')) / (a - a').

    The rounding error of the secant is about eps :math:`|f| / |a - a'|`, that of the mean of the
    two derivatives :math:`f''' (a - a')^2 / 12`. So below :math:`|a - a'| = \epsilon^{1/3} \max(1,
    |a|)` (6e-6 in float64, 5e-3 in float32) the mean is used, unless the derivatives differ by more
    than 4 |a - a'|: then a kink lies between, and the secant is right however close.
    """
    value = function(a)
    step = a - reference
    result = (value - function(reference)) / step
    near = step.abs() <= torch.finfo(a.dtype).eps ** (1 / 3) * a.abs().clamp_min(1)
    if near.any():
        here, there = a[near], reference.expand_as(a)[near]
        slope, slope_there = derivative(function, here), derivative(function, there)
        smooth = (slope - slope_there).abs() <= 4 * (here - there).abs()
        mean = (slope + slope_there) / 2
        result[near] = torch.where(smooth, mean, result[near])
    return value, result


def derivative(function: Function, a: Tensor) -> Tensor:
    """f'(a), element by element."""
    with torch.enable_grad():
        leaf = a.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return slope


class Product(torch.autograd.Function):
    """a b, with a b - a' b' = (a - a')(b + b')/2 + (b - b')(a + a')/2: both factors' fair share."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, a_reference: Tensor, b_reference: Tensor) -> Tensor:
        ctx.save_for_backward((a + a_reference) / 2, (b + b_reference) / 2)
        ctx.shapes = a.shape, b.shape
        return a * b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a_mean, b_mean = ctx.saved_tensors
        a_shape, b_shape = ctx.shapes
        a_grad = (grad * b_mean).sum_to_size(a_shape)
        return a_grad, (grad * a_mean).sum_to_size(b_shape), None, None


class LogSoftmax(torch.autograd.Function):
    """log softmax(z) of (n, classes) as logarithm, sum and exponentials, each with its secant.

    log sum exp(z) - log sum exp(z') = sum_j w_j (z_j - z'_j) with w_j = E(z_j, z'_j) / E(L, L'),
    E(u, v) = (exp u - exp v) / (u - v), L = log sum exp(z): where z' = z it is the softmax.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, reference: Tensor) -> Tensor:
        wide, wide_reference = z.double(), reference.expand_as(z).double()
        total = wide.logsumexp(1, keepdim=True)
        total_reference = wide_reference.logsumexp(1, keepdim=True)
        shift = torch.maximum(total, total_reference)
        weights = _exponential_secant(wide - shift, wide_reference - shift)
        weights /= _exponential_secant(total - shift, total_reference - shift)
        ctx.save_for_backward(weights.to(z.dtype))
        return torch.log_softmax(z, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grad - weights * grad.sum(1, keepdim=True), None


def _exponential_secant(u: Tensor, v: Tensor) -> Tensor:
    """(exp u - exp v) / (u - v), exp u where they are equal."""
    distance = (u - v).abs()
    share = torch.where(distance > 0, -torch.expm1(-distance) / distance, 1.0)
    return torch.maximum(u, v).exp() * share


def winning_shares(start: Tensor, end: Tensor) -> Tensor:
    """For m sets of k straight lines, from ``start`` (m, k) at t = 0 to ``end`` at t = 1: the share
    of the way on which each is the largest, (m, k). Sums to 1.

    Walks along the upper envelope, from one crossing to the next. Lines that are one line up to
    rounding (units that are dead at one end and alike at the other) have equal parts of its share.
    """
    slope = end - start
    size = torch.maximum(start.abs(), end.abs())
    # What lies outside of an image is not a size.
    size = torch.where(size < torch.finfo(start.dtype).max / 8, size, 0).amax(1, keepdim=True)
    close = torch.finfo(start.dtype).eps ** (2 / 3) * size
    shares = torch.zeros_like(start)
    rows = torch.arange(len(start), device=start.device)
    leads = start == start.amax(1, keepdim=True)
    leader = torch.where(leads, slope, -torch.inf).argmax(1, keepdim=True)
    now = torch.zeros_like(start[:, :1])
    for _ in range(start.shape[1]):
        rise = slope - slope.gather(1, leader)
        crossing = (start.gather(1, leader) - start) / rise
        crossing = torch.where(rise > 0, crossing, torch.inf)
        following = crossing.amin(1, keepdim=True)
        until = torch.maximum(following.clamp(max=1), now)
        alike = (start - start.gather(1, leader)).abs() <= close
        alike &= (end - end.gather(1, leader)).abs() <= close
        shares[rows] += alike * ((until - now) / alike.sum(1, keepdim=True))
        going = (following < 1).squeeze(1)
        if not going.any():
            break
        steepest = torch.where(crossing == following, slope, -torch.inf)
        leader = steepest.argmax(1, keepdim=True)[going]
        rows, close, now = rows[going], close[going], until[going]
        start, end, slope = start[going], end[going], slope[going]
    return shares
