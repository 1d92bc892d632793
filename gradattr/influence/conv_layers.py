"""Convolutions: linear layers on patches, or torch's own kernels, whichever is faster.

Letters: n examples, q directions, p positions, o outputs, k inputs of one output, g groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.influence.directions import Directions
from gradattr.influence.factors import Factors
from gradattr.influence.layers import Call, FactoredLayer, Prepared

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
        if more or not many or torch.is_grad_enabled() or self.conv.padding_mode != "zeros":
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

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        if not torch.is_grad_enabled() or self._prefers_factors(calls):
            return super().products(calls, prepared, norms)
        dots = None if prepared is None else self._along_shared(calls, prepared)
        return dots, self._own_squares(calls) if norms else None

    def _prefers_factors(self, calls: Sequence[Call]) -> bool:
        return self.size(calls).few_positions

    def _along_shared(self, calls: Sequence[Call], prepared: Prepared) -> Tensor:
        """Scalar products that can be differentiated cheaply: <δ, a convolved with D>."""
        columns = []
        for number in range(len(next(iter(prepared.values.values())))):
            own = {short: value[number : number + 1] for short, value in prepared.values.items()}
            columns.append(sum(self._moved(call, own, 1) for call in calls))
        return torch.stack([torch.as_tensor(column) for column in columns], 1)

    def _own_squares(self, calls: Sequence[Call]) -> Tensor:
        """||g||^2 with its slope 2 d<g, c>, c = g held fixed: no weight's gradient in the graph."""
        with torch.no_grad():
            fixed = [Call(call.inputs.detach(), call.grads.detach()) for call in calls]
            own = self.prepare(Directions(self.gradients(fixed))).values
        along = torch.stack([self._moved(call, own, len(call.inputs)) for call in calls]).sum(0)
        return 2 * along - along.detach()

    def _moved(self, call: Call, own: Mapping[str, Tensor], images: int) -> Tensor:
        """<δ, a convolved with the direction> (n,): one direction, or one for each image."""
        total = call.grads.new_zeros(len(call.grads))
        if "weight" in own:
            weight = self.to_weight(own["weight"]).flatten(0, 1)
            inputs, conv = call.inputs, self.conv
            if images > 1:
                inputs = inputs.reshape(1, -1, *inputs.shape[2:])
            padding: str | tuple[int, ...] | int = conv.padding
            if conv.padding_mode != "zeros":
                inputs, padding = padded(conv, inputs), 0
            moved = F.conv2d(
                inputs, weight, None, conv.stride, padding, conv.dilation, images * conv.groups
            )
            total = total + (moved.reshape(call.grads.shape) * call.grads).sum((1, 2, 3))
        if "bias" in own:
            total = total + (self._summed(call.grads) * own["bias"]).sum(1)
        return total

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
