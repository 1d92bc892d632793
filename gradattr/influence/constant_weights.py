"""Convolutions that are differentiated twice, by their input alone.

torch's second derivative of a convolution makes the weight's gradient whether it is wanted or not:
a third of the work where the weight is constant. Here it is two convolutions that know nothing of
it. Where asked, the derivatives are convolved in bfloat16 and added up in float32; the forward
pass, which decides on the units that a ReLU lets pass, never is.
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
def constant_weights(model: nn.Module, x: Tensor, *, mixed: bool = False) -> Iterator[None]:
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
        module.forward = partial(_forward, module, x, mixed)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _forward(conv: nn.Conv2d, x: Tensor, mixed: bool, inputs: Tensor) -> Tensor:
    if inputs.dim() != 4 or conv.weight.requires_grad:
        return nn.Conv2d.forward(conv, inputs)
    begins = inputs is x
    padding = conv.padding
    if conv.padding_mode != "zeros" or isinstance(padding, str):
        inputs, padding = padded(conv, inputs), (0, 0)
    found: Tensor = _Convolution.apply(inputs, conv, padding, begins, mixed)
    return found


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, conv: nn.Conv2d, padding: Any, begins: bool, mixed: bool
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.conv, ctx.padding, ctx.begins, ctx.mixed = conv, padding, begins, mixed
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.begins and torch.is_grad_enabled():
            return grads.new_zeros(()).expand(x.shape), None, None, None, None
        found = _Backwards.apply(grads, x, ctx.conv, ctx.padding, ctx.mixed)
        return found, None, None, None, None


class _Backwards(torch.autograd.Function):
    """The derivative of a convolution by its input: linear in ``grads``, of x only the shape."""

    @staticmethod
    def forward(
        ctx: Any, grads: Tensor, x: Tensor, conv: nn.Conv2d, padding: Any, mixed: bool
    ) -> Tensor:
        ctx.conv, ctx.padding, ctx.mixed = conv, padding, mixed
        lower = torch.bfloat16 if mixed else x.dtype
        found: Tensor = torch.ops.aten.convolution_backward(
            grads.to(lower),
            x.to(lower),
            conv.weight.to(lower),
            None,
            conv.stride,
            padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            [True, False, False],
        )[0]
        return found.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, more: Tensor) -> tuple[Tensor, None, None, None, None]:
        conv, lower = ctx.conv, torch.bfloat16 if ctx.mixed else more.dtype
        moved = F.conv2d(
            more.to(lower),
            conv.weight.to(lower),
            None,
            conv.stride,
            ctx.padding,
            conv.dilation,
            conv.groups,
        )
        return moved.to(more.dtype), None, None, None, None
