"""One forward and one backward pass over a batch, watched layer by layer.

Hooks note what goes into each layer; hooks on its output receive the gradient during the backward
pass. As soon as the last call of a layer is answered the layer is handed on and forgotten, so
memory falls as the backward pass goes.

Parameters take no part in autograd: the graph begins at the first watched layer, and no gradient
of an input is computed below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradattr.errors import ModelError
from gradattr.influence.directions import Loss
from gradattr.influence.layers import Call, Layer

#: What is done with a layer once its calls are complete.
Consume = Callable[[Layer, list[Call]], None]


@dataclass
class Spread:
    """A parameter of shape (1, ...) that is used by broadcasting: one copy per example.

    Its gradient then is the gradient of each example, from the same backward pass.
    """

    module: nn.Module
    short: str
    name: str


@dataclass
class _Noted:
    inputs: Tensor
    grads: Tensor | None = None


@dataclass
class Watch:
    """What is to be watched in a model: ``layers`` with rules, and ``spread`` parameters."""

    model: nn.Module
    layers: Sequence[Layer]
    spread: Sequence[Spread] = ()
    #: How the gradients of the spread parameters are handed on: {name: (n, *shape)}.
    consume_spread: Callable[[dict[str, Tensor]], None] | None = None
    _calls: dict[Layer, list[_Noted]] = field(default_factory=dict)
    _leaves: list[Tensor] = field(default_factory=list)

    def backward(
        self,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        consume: Consume,
        *,
        leaf: Tensor | None = None,
    ) -> None:
        """Run loss(model(x), y) backward.

        Without ``leaf`` layers are handed on during the backward pass, their tensors without a
        graph. With a leaf that x was made from they are handed on after it, and can be
        differentiated once more.
        """
        self._calls, self._leaves = {}, []
        create_graph = leaf is not None
        inside = not create_graph
        with torch.enable_grad(), self._hooks(consume if inside else None), self._spread_out(x):
            outputs = self.model(x)
            _check(outputs, x)
            values = loss(outputs, y)
            extra = [] if leaf is None else [leaf]
            leaves = [*self._leaves, *extra]
            if not values.requires_grad:
                raise ModelError(
                    "the loss does not depend on any of the chosen parameters (is the model's "
                    "output detached?)"
                )
            found = torch.autograd.grad(
                values.sum(), leaves, create_graph=create_graph, allow_unused=True
            )
            self._hand_on(consume)
        self._hand_on_spread(leaves, found)
        self._calls, self._leaves = {}, []

    @contextmanager
    def _hooks(self, consume: Consume | None) -> Iterator[None]:
        handles = [
            layer.module.register_forward_hook(
                partial(self._note, layer, consume), with_kwargs=True
            )
            for layer in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(
        self,
        layer: Layer,
        consume: Consume | None,
        _module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Tensor,
    ) -> Tensor | None:
        inputs = args[0] if args else kwargs["input"]
        noted = _Noted(inputs if consume is None else inputs.detach())
        calls = self._calls.setdefault(layer, [])
        calls.append(noted)
        begins = not output.requires_grad
        if begins:
            leaf = output.detach().requires_grad_()
            self._leaves.append(leaf)
            output = leaf.clone()  # what follows may overwrite it, which a leaf forbids

        def arrived(grads: Tensor) -> None:
            noted.grads = grads if noted.grads is None else noted.grads + grads
            if consume is not None and all(call.grads is not None for call in calls):
                consume(layer, _answered(self._calls.pop(layer)))

        # A hook on a tensor sees the gradient of the value it has now, also if it is overwritten.
        output.register_hook(arrived)  # type: ignore[no-untyped-call]
        return output if begins else None

    def _hand_on(self, consume: Consume) -> None:
        """What is left: layers with calls that the loss does not depend on, or all of them."""
        for layer in list(self._calls):
            calls = _answered(self._calls.pop(layer))
            if calls:
                consume(layer, calls)

    @contextmanager
    def _spread_out(self, x: Tensor) -> Iterator[None]:
        kept = []
        for item in self.spread:
            parameter = item.module._parameters[item.short]
            assert parameter is not None
            copies = parameter.detach().expand(len(x), *parameter.shape[1:]).clone()
            self._leaves.append(copies.requires_grad_())
            kept.append((item, parameter))
            item.module._parameters[item.short] = copies  # type: ignore[assignment]
        try:
            yield
        finally:
            for item, parameter in kept:
                item.module._parameters[item.short] = parameter

    def _hand_on_spread(self, leaves: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
        if self.consume_spread is None or not self.spread:
            return
        pairs = zip(self.spread, leaves, found, strict=False)  # spread leaves come first
        self.consume_spread(
            {
                item.name: (torch.zeros_like(leaf) if grad is None else grad)[:, None]
                for item, leaf, grad in pairs
            }
        )


def _answered(calls: Sequence[_Noted]) -> list[Call]:
    return [Call(call.inputs, call.grads) for call in calls if call.grads is not None]


def _check(outputs: Any, x: Tensor) -> None:
    if not isinstance(outputs, Tensor) or outputs.dim() == 0 or len(outputs) != len(x):
        given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(f"the model returned {given} for {len(x)} examples; expected (n, ...)")
