"""Convolutions: linear layers on patches, or torch's own kernels, whichever is faster.

Letters: n examples, q directions, p positions, o outputs, k inputs of one output, g groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.influence.factors import Factors
from gradattr.influence.layers import Call, FactoredLayer

#: From so many positions on a convolution's gradients are made image by image.
MANY_POSITIONS = 256
#: Below so many values torch takes a slow kernel for a single image.
SMALL_IMAGE = 20480
#: Patches of so few channels are written down faster than a kernel reads them.
FEW_CHANNELS = 8


class Conv2dLayer(FactoredLayer):
    """A convolution is a linear layer on patches (height, width, channel), one per position."""

    def __init__(self, module: nn.Conv2d, names: Mapping[str, str]) -> None:
        super().__init__(module, names)
        self.conv = module

    def factors(self, call: Call) -> Factors:
        groups = self.conv.groups
        return Factors(
            patches(self.conv, call.inputs),
            torch.unflatten(call.grads.permute(0, 2, 3, 1), 3, (groups, -1))
            .movedim(3, 1)
            .flatten(2, 3),
        )

    def matrices(self, calls: Sequence[Call]) -> Tensor:
        """Where an image has many positions torch's own kernel, one image at a time, is faster than
        writing patches down: 1.1 to 1.6 times, measured at 256 and more on a CPU."""
        (call, *more) = calls
        many = self.size(calls).positions >= MANY_POSITIONS
        if more or not many or self.conv.padding_mode != "zeros":
            return super().matrices(calls)
        if isinstance(self.conv.padding, str):
            return super().matrices(calls)
        inputs, grads = call.inputs, call.grads
        if inputs[0].numel() < SMALL_IMAGE and self.conv.groups == 1:
            if self.conv.stride != (1, 1) or inputs.shape[1] < FEW_CHANNELS:
                return super().matrices(calls)
            return self.to_matrix(self._as_groups(inputs, grads))
        rows = [self._kernel(inputs[i : i + 1], grads[i : i + 1]) for i in range(len(inputs))]
        return self.to_matrix(torch.stack(rows))

    def prefers_factors(self, calls: Sequence[Call]) -> bool:
        """Whether slopes of products come cheaper by way of factors: they have three matrix
        products of positions by positions, and patches to be put together again."""
        one = self.size(calls)
        return 2 * one.positions * (one.inputs + one.outputs) < one.inputs * one.outputs

    def raw_gradient(self, calls: Sequence[Call]) -> tuple[Tensor | None, Tensor | None]:
        """Gradients by the convolution's own weight (n, *its shape) and bias (n, o), where they are
        asked for."""
        weight = self._weights(calls) if "weight" in self.names else None
        return weight, self.sums(calls) if "bias" in self.names else None

    def raised(
        self, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """A raw gradient g -> the weight and bias v for which <g', v> is the scalar product of the
        gradients of g' and g by the parameters asked for."""
        return weight, bias

    def _weights(self, calls: Sequence[Call]) -> Tensor:
        conv, (call, *more) = self.conv, calls
        plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        simple = conv.groups == 1 and conv.stride == (1, 1) and conv.in_channels >= FEW_CHANNELS
        if more or not (plain and simple) or self.size(calls).positions < MANY_POSITIONS:
            return self.to_weight(self.matrices(calls)).flatten(1, -4)
        return self._as_groups(call.inputs, call.grads)

    def _as_groups(self, inputs: Tensor, grads: Tensor) -> Tensor:
        """One call for the batch: the images as groups of one image's channels."""
        n, weight = len(inputs), self.conv.weight
        found = self._kernel(
            inputs.reshape(1, -1, *inputs.shape[2:]),
            grads.reshape(1, -1, *grads.shape[2:]),
            weight.repeat(n, 1, 1, 1),
            n,
        )
        return found.view(n, *weight.shape)

    def _kernel(
        self, inputs: Tensor, grads: Tensor, weight: Tensor | None = None, groups: int | None = None
    ) -> Tensor:
        conv = self.conv
        found: Tensor = torch.ops.aten.convolution_backward(
            grads,
            inputs,
            conv.weight if weight is None else weight,
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            groups or conv.groups,
            [False, True, False],
        )[1]
        return found

    def _summed(self, grads: Tensor) -> Tensor:
        return grads.sum((2, 3))

    def to_weight(self, matrix: Tensor) -> Tensor:
        """Rows (height, width, channel) -> (channel, height, width)."""
        window = self.conv.kernel_size
        return torch.unflatten(matrix.flatten(-3, -2), -1, (*window, -1)).movedim(-1, -3)

    def to_matrix(self, weight: Tensor) -> Tensor:
        rows = weight.movedim(-3, -1).flatten(-3)
        return torch.unflatten(rows, -2, (self.conv.groups, -1))


def padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The input with the convolution's own border."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)


def patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What each output position of a convolution sees: (n, c, h, w) -> (n, g, p, k)."""
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        x = padded(conv, x)
    elif any(conv.padding):
        rows, columns = conv.padding
        x = F.pad(x, (columns, columns, rows, rows))
    x = x.permute(0, 2, 3, 1)
    if conv.kernel_size == (1, 1):
        x = x[:, :: conv.stride[0], :: conv.stride[1]]
        windows = torch.unflatten(x, 3, (conv.groups, -1)).movedim(3, 1)
        return windows.flatten(2, 3)
    for dim, (size, step, gap) in enumerate(
        zip(conv.kernel_size, conv.stride, conv.dilation, strict=True), start=1
    ):
        x = x.unfold(dim, (size - 1) * gap + 1, step)[..., ::gap]
    # (n, height, width, channel, kernel height, kernel width)
    windows = torch.unflatten(x, 3, (conv.groups, -1)).permute(0, 3, 1, 2, 5, 6, 4)
    return windows.flatten(4).flatten(2, 3)
