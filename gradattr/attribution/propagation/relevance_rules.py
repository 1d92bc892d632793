r"""How a layer's relevance is shared out among its inputs, in the form of multipliers.

Relevance is written :math:`R_a = a \, g_a`. A layer z = W a + b gets g_z, its relevance is
:math:`R_z = z \, g_z`, and each rule says what g_a is. A sum of relevances over several ways is
then what autograd does by itself, and what moves values about needs no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gradattr.attribution.propagation.torch_operations import Operation

Share = Literal["epsilon", "plus", "alpha2_beta1", "flat"]


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z + epsilon sign(z), with the sign of 0 as 1."""
    return z + torch.where(z < 0, -epsilon, epsilon)


class Stabilised(torch.autograd.Function):
    """z, with the epsilon rule's g z / (z + epsilon sign z) going back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(z / stabilised(z, epsilon))
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        return grad * share, None


class Passing(torch.autograd.Function):
    """y of the shape of a, with what comes back handed on as it is."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@dataclass
class Layer:
    """A convolution or linear layer on its way: what it was called with, and the batch norm that
    came after it, if one did."""

    operation: Operation
    share: Share
    epsilon: float
    output: Tensor | None = None
    """z, that of the batch norm if there is one."""
    scale: Tensor | None = None
    shift: Tensor | None = None
    used: bool = False
    """Whether something else than a batch norm works on its output."""

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.operation.argument(1, "weight").detach()
        if self.scale is None:
            return weight
        return weight * self.scale.view(-1, *[1] * (weight.dim() - 1))

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.operation.argument(2, "bias")
        bias = None if bias is None else bias.detach()
        if self.scale is None or self.shift is None:
            return bias
        return self.shift if bias is None else self.shift + self.scale * bias

    def on(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with other weights."""
        kwargs = {k: v for k, v in self.operation.kwargs.items() if k not in _OPERANDS}
        result: Tensor = self.operation.func(a, weight, bias, *self.operation.args[3:], **kwargs)
        return result

    def hand_on(self, a: Tensor, grad: Tensor) -> Tensor:
        """g_a (R_a by the rule 'flat') from g_z."""
        assert self.output is not None
        relevance = grad * self.output
        if self.share == "flat":
            return self._flat(a, relevance)
        if self.share == "plus":
            return self._part(a, relevance, 1)
        if self.share == "alpha2_beta1":
            return 2 * self._part(a, relevance, 1) - self._part(a, relevance, -1)
        share = relevance / stabilised(self.output, self.epsilon)
        return _pulled(lambda x: self.on(x, self.weight, None), a, share)

    def _part(self, a: Tensor, relevance: Tensor, sign: int) -> Tensor:
        """In proportion to the contributions of one sign, the bias of that sign among them."""
        low, high = self.weight.clamp(max=0), self.weight.clamp(min=0)
        along, against = (high, low) if sign > 0 else (low, high)
        bias = self.bias
        if bias is not None:
            bias = bias.clamp(min=0) if sign > 0 else bias.clamp(max=0)
        rows = a.detach()
        # Behind a ReLU there is nothing negative, and half of the work to do.
        negative = rows.min() < 0
        with torch.enable_grad():
            leaf = rows.clamp(min=0).requires_grad_(True)
            z = self.on(leaf, along, bias)
            leaves = [leaf]
            if negative:
                leaves.append(rows.clamp(max=0).requires_grad_(True))
                z = z + self.on(leaves[1], against, None)
        share = relevance / stabilised(z.detach(), self.epsilon)
        grads = torch.autograd.grad(z, leaves, share)
        return torch.where(rows > 0, grads[0], grads[1]) if negative else grads[0]

    def _flat(self, a: Tensor, relevance: Tensor) -> Tensor:
        """In equal parts. Relevance itself, because inputs may be 0."""
        ones = torch.ones_like(self.weight)
        with torch.enable_grad():
            leaf = torch.ones_like(a).requires_grad_(True)
            z = self.on(leaf, ones, None)
        (found,) = torch.autograd.grad(z, leaf, relevance / stabilised(z.detach(), self.epsilon))
        return found


class Shared(torch.autograd.Function):
    """A layer whose relevance goes back by its rule."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, layer: Layer) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(a)
        layer.output = layer.operation.on(a)
        return layer.output.clone()  # what comes next may write into it

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        return ctx.layer.hand_on(a, grad), None


def passed_on(function: Callable[[Tensor], Tensor], a: Tensor) -> tuple[Tensor, Tensor]:
    """f(a) and f(a) / a, 0 where a = 0: an activation has the relevance of its output."""
    value = function(a)
    return value, torch.where(a == 0, 0.0, value / a)


_OPERANDS = ("input", "weight", "bias")


def _pulled(function: Callable[[Tensor], Tensor], a: Tensor, share: Tensor) -> Tensor:
    """The transposed linear map."""
    with torch.enable_grad():
        leaf = a.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(function(leaf), leaf, share)
    return found
