"""Mixed precision: float32 forward, and the products of the backward in bfloat16.

A ReLU's forward decides which units pass, so the forward stays float32: bfloat16 there changes the
map, bfloat16 in the backward hardly does. Convolutions and linear layers, where the time goes, are
replaced one by one by layers with such a backward. Everything else keeps the derivative that
autograd gives it, in float32. That works for any model, traced or not.

On the CPU the convolutions go through oneDNN with weights laid out once per shape (up to 10 %).
Fusing the ReLU and the addition behind a convolution into it was measured and gained nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

#: Shapes whose weight layouts are kept: a full batch and the remainder at the end.
_LAYOUTS_KEPT = 2


class Layout(NamedTuple):
    """Weights as oneDNN wants them for one input shape: forward, and transposed for backward."""

    forward: Tensor
    backward: Tensor
    output_padding: list[int]


class FrozenConv2d(nn.Module):
    """A convolution whose weights take no gradient, with the backward product in another dtype.

    Gradients that come in and go out are of the input's dtype.
    """

    def __init__(self, conv: nn.Conv2d, backward_dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = conv
        self.backward_dtype = backward_dtype
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.padding = [int(side) for side in conv.padding]
        self.groups = conv.groups
        self.prepacked = prepacking_works(conv.weight)
        self._layouts: OrderedDict[torch.Size, Layout] = OrderedDict()
        self._cast_weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenConv.apply(x, self)
        return out

    def run(self, x: Tensor) -> Tensor:
        """The forward pass in the input's dtype."""
        if not self.prepacked:
            result: Tensor = self.conv(x)
            return result
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._layout(x).forward, self.conv.bias, self.padding, self.stride, self.dilation,
            self.groups, "none", [], "",
        )  # fmt: skip
        return out

    def run_backward(self, grad: Tensor, x_shape: torch.Size) -> Tensor:
        """The gradient of the input, from that of the convolution's output."""
        cast = grad.to(self.backward_dtype).contiguous(memory_format=torch.channels_last)
        layout = self._layouts.get(x_shape) if self.prepacked else None
        if layout is not None:
            result = torch.ops.mkldnn._convolution_transpose_pointwise(
                cast, layout.backward, None, self.padding, layout.output_padding,
                self.stride, self.dilation, self.groups, "none", [], "",
            )  # fmt: skip
        else:
            if self._cast_weight is None:
                self._cast_weight = self.conv.weight.detach().to(self.backward_dtype)
            shape_only = torch.empty(
                x_shape, dtype=cast.dtype, device=cast.device, memory_format=torch.channels_last
            )
            result = torch.ops.aten.convolution_backward(
                cast, shape_only, self._cast_weight, None, self.stride, self.padding,
                self.dilation, False, [0, 0], self.groups, (True, False, False),
            )[0]  # fmt: skip
        dx: Tensor = result.to(grad.dtype)
        return dx

    def forget_layouts(self) -> None:
        """Drop the layouts: they suit the shapes seen first, which may not be the usual ones."""
        self._layouts.clear()

    def _layout(self, x: Tensor) -> Layout:
        layout = self._layouts.get(x.shape)
        if layout is None:
            layout = self._layouts[x.shape] = self._make_layout(x.shape)
            if len(self._layouts) > _LAYOUTS_KEPT:
                self._layouts.popitem(last=False)
        else:
            self._layouts.move_to_end(x.shape)
        return layout

    def _make_layout(self, shape: torch.Size) -> Layout:
        weight = self.conv.weight.detach()
        kernel = list(weight.shape[2:])
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True)]
        padded = [n + 2 * p - s for n, p, s in zip(shape[2:], self.padding, spans, strict=True)]
        out_shape = [shape[0], weight.shape[0]]
        out_shape += [p // s + 1 for p, s in zip(padded, self.stride, strict=True)]
        left_over = [p % s for p, s in zip(padded, self.stride, strict=True)]
        return Layout(
            torch.ops.mkldnn._reorder_convolution_weight(
                weight, self.padding, self.stride, self.dilation, self.groups,
                list(shape),
            ),
            torch.ops.mkldnn._reorder_convolution_transpose_weight(
                weight.to(self.backward_dtype), self.padding, left_over, self.stride,
                self.dilation, self.groups, out_shape,
            ),
            left_over,
        )  # fmt: skip


class FrozenLinear(nn.Module):
    """A linear layer whose weights take no gradient, with the backward product in another dtype."""

    def __init__(self, linear: nn.Linear, backward_dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = linear
        self.cast_weight = linear.weight.detach().to(backward_dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenLinear.apply(x, self)
        return out


class _FrozenConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layer: FrozenConv2d) -> Tensor:
        ctx.layer, ctx.x_shape = layer, x.shape  # type: ignore[attr-defined]
        return layer.run(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.run_backward(grad, ctx.x_shape), None


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer  # type: ignore[attr-defined]
        return layer.linear(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight = ctx.layer.cast_weight
        return (grad.to(weight.dtype) @ weight).to(grad.dtype), None


def prepacking_works(weight: Tensor) -> bool:
    """Whether this build of torch has oneDNN's prepacked convolutions for such weights."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch._C._get_mkldnn_enabled()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_transpose_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_transpose_weight")
    )


def bfloat16_obstacle(device: torch.device) -> str | None:
    """Why a backward pass in bfloat16 would not pay or not work on ``device``; None if it would."""
    if device.type == "cpu":
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return None
        return "the CPU has no bfloat16 instructions (avx512_bf16, amx_bf16 or their like)"
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic"
    return None


def install_backward(model: nn.Module, backward_dtype: torch.dtype) -> int:
    """Replace the convolutions and linear layers of any model, in place; returns how many.

    Layers with hooks, parametrisations or subclasses are left as they are.
    """
    count = 0
    for parent in list(model.modules()):
        if isinstance(parent, FrozenConv2d | FrozenLinear | nn.MultiheadAttention):
            continue
        for name, child in list(parent._modules.items()):
            replacement = _frozen_layer(child, backward_dtype)
            if replacement is not None:
                setattr(parent, name, replacement)
                count += 1
    return count


def _frozen_layer(child: nn.Module | None, backward_dtype: torch.dtype) -> nn.Module | None:
    if child is None or child._forward_hooks or child._forward_pre_hooks or child._backward_hooks:
        return None
    if type(child) is nn.Conv2d and _is_plain(child):
        return FrozenConv2d(child, backward_dtype)
    if type(child) is nn.Linear and child.weight.is_floating_point():
        return FrozenLinear(child, backward_dtype)
    return None


def _is_plain(conv: nn.Conv2d) -> bool:
    """Zero padding by numbers, one group: the case that is faster than what autograd does."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and conv.groups == 1
