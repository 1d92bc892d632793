"""Slopes of <g(x), v> for a convolution and constant v, in closed form.

With a what went in and δ the gradient of what came out, <g, v> = <δ, a * V> + <sum_p δ_p, b>, where
V and b are v as a weight and a bias. So

    d<g, v>/dδ = a * V + b        d<g, v>/da = δ convolved backwards with V

one convolution each, whose weight may differ from example to example; autograd carries both on to
the pixels. ``v = g`` held fixed gives half the slope of ||g||^2. A covector is the pair (V, b),
each of them None where nothing of the kind is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gradattr.influence.conv_layers import Conv2dLayer, padded
from gradattr.influence.layers import Call, Prepared


@dataclass(frozen=True)
class Covector:
    """``weight`` (n, o, c, height, width) and ``bias`` (n, o); n = 1 if all examples share it."""

    weight: Tensor | None
    bias: Tensor | None

    def minus(self, factor: Tensor, other: Covector) -> Covector:
        """self - factor * other, one factor (n,) for each example."""

        def one(mine: Tensor | None, its: Tensor | None) -> Tensor | None:
            if its is None or mine is None:
                return mine
            return torch.addcmul(mine, factor.view(-1, *[1] * (its.dim() - 1)), its, value=-1.0)

        return Covector(one(self.weight, other.weight), one(self.bias, other.bias))


class ConvSlopes:
    """One convolution and its calls on a batch of n examples. ``mixed``: slopes are convolved in
    bfloat16; the products themselves are not."""

    def __init__(self, layer: Conv2dLayer, calls: Sequence[Call], mixed: bool = False) -> None:
        self.layer, self.calls, self.mixed = layer, list(calls), mixed
        #: Without a graph, and in the layout in which images become groups of channels.
        self.fixed = [
            Call(call.inputs.detach().contiguous(), call.grads.detach().contiguous())
            for call in calls
        ]
        with torch.no_grad():
            self.gradient = Covector(*layer.raw_gradient(self.fixed))

    def dots(self, covector: Covector) -> Tensor:
        """<g_i, v>: (n,)."""
        total = self.fixed[0].grads.new_zeros(len(self.fixed[0].grads))
        pairs = (
            (self.gradient.weight, covector.weight),
            (self.gradient.bias, covector.bias),
        )
        for mine, its in pairs:
            if mine is not None and its is not None:
                rows, columns = mine.flatten(1), its.flatten(1)
                if len(columns) == 1:
                    total = total + rows @ columns[0]
                else:
                    total = total + torch.linalg.vecdot(rows, columns)
        return total

    def own(self) -> Covector:
        """g itself: the v with <g, v> = ||g||^2."""
        return Covector(*self.layer.raised(self.gradient.weight, self.gradient.bias))

    def direction(self, prepared: Prepared) -> Covector:
        """One direction that the layer has prepared."""
        weight = prepared.values.get("weight")
        return Covector(
            None if weight is None else self.layer.to_weight(weight).flatten(1, -4),
            prepared.values.get("bias"),
        )

    def slopes(self, covector: Covector) -> list[tuple[Tensor, Tensor]]:
        """(tensor of the graph, slope of <g, v> in it)."""
        found = []
        for call, fixed in zip(self.calls, self.fixed, strict=True):
            by_input, by_grads = self._slope(call if _shared(covector) else fixed, covector)
            if call.inputs.requires_grad and by_input is not None:
                found.append((call.inputs, laid_out_as(by_input, call.inputs)))
            if call.grads.requires_grad and by_grads is not None:
                found.append((call.grads, laid_out_as(by_grads, call.grads)))
        return found

    def _slope(self, call: Call, covector: Covector) -> tuple[Tensor | None, Tensor | None]:
        by_input = by_grads = None
        if covector.weight is not None:
            kind = call.grads.dtype
            lower = torch.bfloat16 if self.mixed else kind
            inputs = call.inputs.detach().to(lower).requires_grad_()
            with torch.enable_grad():
                moved = self._moved(inputs, covector.weight.to(lower))
            # Example by example, although all are groups of one convolution.
            grads = call.grads.detach().to(lower).reshape(moved.shape)
            by_input = torch.autograd.grad(moved, inputs, grads)[0].to(kind)
            by_grads = moved.detach().view(call.grads.shape).to(kind)
        if covector.bias is not None:
            bias = covector.bias[:, :, None, None]
            by_grads = bias.expand_as(call.grads) if by_grads is None else by_grads + bias
        return by_input, by_grads

    def _moved(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """a * V; with a V for each example, in one call with the examples side by side."""
        conv, images = self.layer.conv, len(weight)
        if conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "valid"):
            rows, columns = conv.stride
            seen = inputs[:, :, ::rows, ::columns]
            moved: Tensor = weight.flatten(2) @ seen.flatten(2)
            return torch.unflatten(moved, 2, seen.shape[2:])
        if images > 1:
            inputs = inputs.reshape(1, -1, *inputs.shape[2:])
        padding: str | tuple[int, ...] | int = conv.padding
        if conv.padding_mode != "zeros":
            inputs, padding = padded(conv, inputs), 0
        weight = weight.flatten(0, 1)
        if images > 1:
            weight = weight.contiguous()
        groups = images * conv.groups
        return F.conv2d(inputs, weight, None, conv.stride, padding, conv.dilation, groups)


def _shared(covector: Covector) -> bool:
    return covector.weight is None or len(covector.weight) == 1


def laid_out_as(values: Tensor, like: Tensor) -> Tensor:
    """In the memory format of ``like``, or sums of the two take several times as long."""
    if like.is_contiguous():
        return values.contiguous()
    if like.is_contiguous(memory_format=torch.channels_last):
        return values.contiguous(memory_format=torch.channels_last)
    return values
