"""Convolutions that are differentiated twice, by their input alone.

torch's second derivative of a convolution makes the weight's gradient whether it is wanted or not:
a third of the work where the weight is constant. Here it is two convolutions that know nothing of
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.influence.conv_layers import padded


@contextmanager
def constant_weights(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside, convolutions of the model (a private copy, its parameters frozen) are ours.

    The *first* derivative by ``x``, the model's input, is not made by a convolution that sees x
    itself: whoever maps pixels has no use for it.
    """
    changed = [
        module
        for module in model.modules()
        if type(module) is nn.Conv2d and "forward" not in module.__dict__
    ]
    for module in changed:
        module.forward = partial(_forward, module, x)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _forward(conv: nn.Conv2d, x: Tensor, inputs: Tensor) -> Tensor:
    if inputs.dim() != 4 or conv.weight.requires_grad:
        return nn.Conv2d.forward(conv, inputs)
    begins = inputs is x
    padding = conv.padding
    if conv.padding_mode != "zeros" or isinstance(padding, str):
        inputs, padding = padded(conv, inputs), (0, 0)
    found: Tensor = _Convolution.apply(inputs, conv, padding, begins)
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: nn.Conv2d, padding: Any, begins: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.conv, ctx.padding, ctx.begins = conv, padding, begins
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.begins and torch.is_grad_enabled():
            return grads.new_zeros(()).expand(x.shape), None, None, None
        return _Backwards.apply(grads, x, ctx.conv, ctx.padding), None, None, None


class _Backwards(torch.autograd.Function):
    """The derivative of a convolution by its input: linear in ``grads``, of x only the shape."""

    @staticmethod
    def forward(ctx: Any, grads: Tensor, x: Tensor, conv: nn.Conv2d, padding: Any) -> Tensor:
        ctx.conv, ctx.padding = conv, padding
        found: Tensor = torch.ops.aten.convolution_backward(
            grads,
            x,
            conv.weight,
            None,
            conv.stride,
            padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            [True, False, False],
        )[0]
        return found

    @staticmethod
    def backward(ctx: Any, more: Tensor) -> tuple[Tensor, None, None, None]:
        conv = ctx.conv
        moved = F.conv2d(
            more, conv.weight, None, conv.stride, ctx.padding, conv.dilation, conv.groups
        )
        return moved, None, None, None
