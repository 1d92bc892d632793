"""Max-pooling from a reference to an input: every candidate counts for as long as it is largest."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gradattr.attribution.propagation.multipliers import winning_shares
from gradattr.attribution.propagation.torch_operations import Operation

_POOLS: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}


class Windows(NamedTuple):
    """Where a pooling looks: one number per dimension of space."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    def pool(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Maxima, and where they are, among the positions of space in one row."""
        return _POOLS[len(self.kernel)](a, *self[:4], ceil_mode=self.ceil_mode)

    def level(self, a: Tensor, places: Tensor) -> Tensor:
        """Whether a second candidate comes up to the largest, whose place is known, up to
        rounding. One that is the largest of another window is not looked at."""
        best = a.flatten(2).gather(2, places)
        without = a.flatten(2).scatter(2, places, -torch.inf)
        second = self.pool(without.view_as(a))[0].flatten(2)
        return best - second <= torch.finfo(a.dtype).eps ** (2 / 3) * best.abs()

    def positions(self, space: tuple[int, ...], pooled: tuple[int, ...]) -> Tensor:
        """(windows, candidates): the place of every candidate, -1 outside of the image."""
        axes = []
        for size, count, k, s, p, d in zip(space, pooled, *self[:4], strict=True):
            place = torch.arange(count)[:, None] * s - p + torch.arange(k) * d
            axes.append(torch.where((place >= 0) & (place < size), place, -1))
        total = torch.zeros((1,) * 2 * len(space), dtype=torch.long)
        outside = torch.zeros_like(total, dtype=torch.bool)
        for dim, (axis, size) in enumerate(zip(axes, space, strict=True)):
            shape = [1] * 2 * len(space)
            shape[dim], shape[len(space) + dim] = axis.shape
            outside = outside | (axis < 0).view(shape)
            total = total * size + axis.view(shape)
        table = torch.where(outside, -1, total)
        return table.reshape(prod(pooled), prod(self.kernel))


def windows_of(operation: Operation) -> Windows | None:
    """The windows of a max-pooling; None for one that answers with places too, or whose windows
    are of different sizes."""
    dims, a = int(operation.name[-2]), operation.first
    if operation.argument(6, "return_indices", False) is True or a.dim() != dims + 2:
        return None
    if operation.name.startswith("adaptive"):
        space = tuple(a.shape[2:])
        asked = _each(operation.argument(1, "output_size"), dims, None)
        size = [n if out is None else out for n, out in zip(space, asked, strict=True)]
        if operation.argument(2, "return_indices", False) is True:
            return None
        if any(n % out for n, out in zip(space, size, strict=True)):
            return None
        kernel = tuple(n // out for n, out in zip(space, size, strict=True))
        return Windows(kernel, kernel, (0,) * dims, (1,) * dims, False)
    kernel = _each(operation.argument(1, "kernel_size"), dims, 1)
    stride = operation.argument(2, "stride")
    return Windows(
        kernel,
        kernel if stride is None or stride == [] else _each(stride, dims, 1),
        _each(operation.argument(3, "padding", 0), dims, 0),
        _each(operation.argument(4, "dilation", 1), dims, 1),
        bool(operation.argument(5, "ceil_mode", False)),
    )


class PathMaximum(torch.autograd.Function):
    """Max-pooling of a (n, channels, ...) whose multipliers reach from a reference a' to a.

    On the straight line from a' to a every candidate of a window is a straight line, and the
    maximum follows the uppermost: a candidate's multiplier is the share of the way on which that is
    its own. That is what the rescale rule makes of max(a, b) = b + relu(a - b), whose secant is the
    share on which a - b > 0, and it is the rescale rule of a ReLU where the other candidate is 0.
    It adds up exactly, treats candidates alike and changes steadily with a and a'. Giving the
    difference of the maxima to the two winners alone (Captum, and "cross-max" of SHAP) adds up as
    well, but it is not that of max(a, b) written as a ReLU, and it jumps when the winner changes.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, reference: Tensor, windows: Windows) -> Tensor:
        value, places = windows.pool(a)
        reference = reference.expand_as(a)
        flat, flat_reference = a.flatten(2), reference.flatten(2)
        places = places.flatten(2)
        # Where the winner at a is one of the winners at a' it wins all the way.
        there = flat_reference.gather(2, places)
        peaks = windows.pool(reference)[0].flatten(2)
        contested = there < peaks
        # Where candidates are level at a, several may be level all the way: they share.
        contested |= windows.level(a, places) & (value.flatten(2) != peaks)
        ctx.shape = a.shape
        row, channel, window = contested.nonzero(as_tuple=True)
        table = windows.positions(tuple(a.shape[2:]), tuple(value.shape[2:])).to(a.device)
        candidates = table[window]
        where = (row[:, None], channel[:, None], candidates.clamp_min(0))
        # Outside of the image: a line that is never the largest.
        never = torch.finfo(a.dtype).min / 4
        outside = candidates < 0
        shares = winning_shares(
            flat_reference[where].masked_fill_(outside, never),
            flat[where].masked_fill_(outside, never),
        )
        ctx.save_for_backward(places, contested, shares, *where)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        places, contested, shares, *where = ctx.saved_tensors
        grad = grad.flatten(2)
        result = grad.new_zeros((*ctx.shape[:2], prod(ctx.shape[2:])))
        result.scatter_add_(2, places, grad.masked_fill(contested, 0))
        if len(shares):
            result.index_put_(tuple(where), grad[contested][:, None] * shares, accumulate=True)
        return result.view(ctx.shape), None, None


def _each(value: Any, dims: int, default: Any) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(value) if len(value) == dims else tuple(value) * dims
    return (default if value is None else value,) * dims
