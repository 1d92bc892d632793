"""Relevance on its way back through a network, operation by operation.

A function mode gives every operation the rule that goes with it, so that sums, functions, modules
used twice and what writes in place are treated like everything else. See ``relevance_rules`` for
the form that relevance is kept in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gradattr.attribution.propagation import torch_operations as kinds
from gradattr.attribution.propagation.interception import (
    Interception,
    check_batch_norm,
    check_dropout,
    check_one_factor,
)
from gradattr.attribution.propagation.multipliers import Multiplied
from gradattr.attribution.propagation.relevance_rules import (
    Layer,
    Passing,
    Share,
    Shared,
    Stabilised,
    passed_on,
)
from gradattr.attribution.propagation.torch_operations import Operation

Composite = Literal["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat"]

#: What convolutions do; linear layers always have the epsilon rule.
CONVOLUTIONS: dict[str, Share] = {
    "epsilon": "epsilon",
    "epsilon_plus_flat": "plus",
    "epsilon_alpha2_beta1_flat": "alpha2_beta1",
}
#: 0 at 0, so that the relevance of their output is that of their input.
_ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "rrelu",
        "hardtanh",
        "clamp",
        "clip",
        "clamp_min",
        "clamp_max",
        "threshold",
        "gelu",
        "silu",
        "tanh",
        "elu",
        "celu",
        "selu",
        "mish",
        "hardswish",
        "softsign",
        "tanhshrink",
        "hardshrink",
        "softshrink",
    ]
)
_PRODUCT = "more than one factor depends on the input, and there is no rule to share out a product"
_REASONS = {
    **dict.fromkeys(
        kinds.NORMALISATIONS,
        "it divides by a statistic of the sample, and there is no rule that keeps relevance",
    ),
    **dict.fromkeys(
        kinds.ATTENTION | kinds.SOFTMAX,
        "attention multiplies values by a softmax of others; there is no rule for it",
    ),
    **dict.fromkeys(
        kinds.PRODUCTS | kinds.MATRIX_PRODUCTS | kinds.QUOTIENTS | kinds.LAYERS, _PRODUCT
    ),
    **dict.fromkeys(
        kinds.ELEMENTWISE - _ACTIVATIONS,
        "it is not 0 at 0: its output has relevance where no input has any",
    ),
}


_STATISTICS = ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))


class Raw:
    """The input itself, moved about or shifted and scaled by constants."""


class Propagating(Interception):
    """Gives every operation the derivative that propagates relevance."""

    rule_name = "relevance propagation"
    reasons = _REASONS

    def __init__(self, composite: Composite, epsilon: float, network: nn.Module) -> None:
        super().__init__(network)
        self.convolutions = CONVOLUTIONS[composite]
        self.flat = composite != "epsilon"
        """Whether the first layer has a rule of its own."""
        self.epsilon = epsilon

    def replaced(self, operation: Operation, dependent: Sequence[Tensor]) -> Any:
        name = operation.name
        raw = [t for t in dependent if isinstance(self.marked(t), Raw)]
        if raw:
            return self._on_the_input(operation, dependent)
        if name == "batch_norm":
            return self._batch_norm(operation, dependent)
        for tensor in dependent:
            layer = self.marked(tensor)
            if isinstance(layer, Layer):
                self._check_not_merged(operation, layer)
                layer.used = True
        if name in kinds.LAYERS:
            return self._layer(operation, dependent)
        if name in kinds.ARRANGING:
            return operation.call()
        if name in kinds.DROPOUTS:
            check_dropout(self, operation)
            return operation.call()
        if name in kinds.MAX_POOLS:
            return operation.call()  # the winner takes it all: so does autograd
        if name in kinds.PRODUCTS | kinds.QUOTIENTS:
            check_one_factor(self, operation, dependent)
            return operation.call()
        if name in kinds.AVERAGING | kinds.SUMS | kinds.MATRIX_PRODUCTS:
            if name in kinds.MATRIX_PRODUCTS:
                check_one_factor(self, operation, dependent)
            return self._written(operation, Stabilised.apply(operation.on(), self.epsilon))
        if name in _ACTIVATIONS:
            return self._activation(operation, dependent)
        raise self.unfit(operation)

    def _written(self, operation: Operation, result: Tensor) -> Tensor:
        if not operation.in_place:
            return result
        written: Tensor = operation.first.copy_(result)
        return written

    def _activation(self, operation: Operation, dependent: Sequence[Tensor]) -> Tensor:
        a = operation.first
        if len(dependent) > 1 or dependent[0] is not a:
            raise self.unfit(operation, "its parameters depend on the input")
        if operation.name == "rrelu" and operation.argument(3, "training", False):
            raise self.unfit(operation, "it is in training mode, which makes the answer random")
        with torch.no_grad():
            nothing = operation.on(torch.zeros_like(a))
        if nothing.any():
            raise self.unfit(operation, _REASONS["sigmoid"])
        return self._written(operation, Multiplied.apply(a, lambda x: passed_on(operation.on, x)))

    def _layer(self, operation: Operation, dependent: Sequence[Tensor]) -> Tensor:
        check_one_factor(self, operation, dependent)
        share: Share = "epsilon" if operation.name == "linear" else self.convolutions
        return self._shared(Layer(operation, share, self.epsilon))

    def _shared(self, layer: Layer) -> Tensor:
        result: Tensor = Shared.apply(layer.operation.first, layer)
        self.mark(result, layer)
        return result

    def _batch_norm(self, operation: Operation, dependent: Sequence[Tensor]) -> Tensor:
        """Part of the layer before it, if there is one; else a layer of its own."""
        check_batch_norm(self, operation)
        check_one_factor(self, operation, dependent)
        layer = self.marked(operation.first)
        if isinstance(layer, Layer):
            self._check_not_merged(operation, layer)
        if not isinstance(layer, Layer) or layer.used or "transpose" in layer.operation.name:
            return Stabilised.apply(operation.call(), self.epsilon)
        mean, variance, weight, bias = (operation.argument(p, k) for p, k in _STATISTICS)
        scale = (variance + operation.argument(7, "eps", 1e-5)).rsqrt()
        scale = scale if weight is None else scale * weight.detach()
        layer.scale, layer.shift = scale, -mean * scale
        if bias is not None:
            layer.shift = layer.shift + bias.detach()
        with torch.no_grad():
            layer.output = operation.call()
        result: Tensor = Passing.apply(operation.first, layer.output)
        return result

    def _check_not_merged(self, operation: Operation, layer: Layer) -> None:
        if layer.scale is not None:
            raise self.unfit(
                operation, "it works on the output of a layer that a batch norm has become part of"
            )

    def _on_the_input(self, operation: Operation, dependent: Sequence[Tensor]) -> Tensor | Any:
        """Until the first layer it is relevance itself that goes back, because pixels may be 0."""
        name = operation.name
        if name in kinds.LAYERS:
            check_one_factor(self, operation, dependent)
            return self._shared(Layer(operation, "flat", self.epsilon))
        if len(dependent) == 1 and not operation.in_place:
            if name in kinds.ARRANGING:
                return self._raw(operation.call())
            if name in kinds.SUMS | kinds.PRODUCTS | kinds.QUOTIENTS:
                check_one_factor(self, operation, dependent)
                with torch.no_grad():
                    y = operation.call()
                if y.shape == dependent[0].shape:
                    return self._raw(Passing.apply(dependent[0], y))
        raise self.unfit(
            operation,
            "it works on the input itself, and a rule for the first layer needs one that is a "
            "convolution or a linear layer",
        )

    def _raw(self, result: Any) -> Any:
        for tensor in result if isinstance(result, list | tuple) else [result]:
            self.mark(tensor, Raw())
        return result

    def _mark_all(self, result: Any, what: str) -> None:
        known = self.marked(result) if isinstance(result, Tensor) else None
        if what == "dependent" and isinstance(known, Layer | Raw):
            return
        super()._mark_all(result, what)
