"""Products of per-example gradients that can be differentiated once more: for maps.

One backward pass with a graph serves every query. Scalar products and squared norms then are
functions of the pixels, and their gradients are what autograd makes of them: no gradient of a
parameter is ever differentiated on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradattr.errors import MethodError
from gradattr.influence.directions import Directions, Loss
from gradattr.influence.factors import products_of
from gradattr.influence.fallback import plain_attention
from gradattr.influence.layers import Call, Gradients, Layer, Prepared
from gradattr.influence.wiring import Wiring, laid_out


@dataclass
class Direction:
    """One direction u (of a block's q), laid out for every layer of a wiring."""

    values: Gradients
    by_layer: Mapping[Layer, Prepared]
    norm: float

    @classmethod
    def of(cls, wiring: Wiring, directions: Directions, number: int) -> Direction:
        one = directions.rows(slice(number, number + 1))
        by_layer = {layer: layer.prepare(one) for layer in wiring.layers}
        return cls(one.values, by_layer, float(one.norms()))


@dataclass
class Tape:
    """The gradients of a batch, with a graph back to ``leaf``."""

    leaf: Tensor
    layers: list[tuple[Layer, list[Call]]] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def record(
        cls, wiring: Wiring, x: Tensor, y: Tensor, loss: Loss, middle: nn.Module | None = None
    ) -> Tape:
        """Run x (n, ...) forward and backward. The leaf is x, or the output of ``middle``."""
        tape = cls(x)
        found: list[Tensor] = []

        def keep(layer: Layer, calls: list[Call]) -> None:
            tape.layers.append((layer, calls))

        def note(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            found.append(output)
            return output.clone()  # what follows may overwrite it

        handle = None if middle is None else middle.register_forward_hook(note)
        watch = wiring.watch()
        watch.consume_spread = tape.gradients.update
        with plain_attention(), torch.enable_grad():
            x = x.requires_grad_()
            try:
                if wiring.layers or wiring.spread:
                    # A model may overwrite its input, which a leaf forbids.
                    watch.backward(laid_out(wiring.model, x), y, loss, keep, leaf=x)
            finally:
                if handle is not None:
                    handle.remove()
            if wiring.fallback is not None:
                tape.gradients.update(wiring.fallback.gradients(x, y, loss, create_graph=True))
        if middle is not None:
            tape.leaf = _one(found, middle)
        return tape

    def dots(self, direction: Direction) -> Tensor:
        """<g_i, u>: (n,), with a graph."""
        with torch.enable_grad():
            parts = [
                layer.products(calls, direction.by_layer[layer], False)[0]
                for layer, calls in self.layers
            ]
            parts.append(products_of(self.gradients, direction.values, False)[0])
            return _total(parts, self.leaf)[:, 0]

    def squares(self) -> Tensor:
        """||g_i||^2: (n,), with a graph."""
        with torch.enable_grad():
            parts = [layer.products(calls, None, True)[1] for layer, calls in self.layers]
            parts.append(products_of(self.gradients, None, True)[1])
            return _total(parts, self.leaf)

    def slope(self, values: Tensor) -> Tensor:
        """Gradient of each value (n,) by its own row of the leaf. The tape can be used again."""
        if not values.requires_grad:
            return torch.zeros_like(self.leaf)
        (found,) = torch.autograd.grad(
            values.sum(), self.leaf, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(self.leaf) if found is None else found


def _one(found: Sequence[Tensor], middle: nn.Module) -> Tensor:
    if len(found) != 1:
        raise MethodError(
            f"{type(middle).__name__} is called {len(found)} times in a forward pass; a layer "
            "whose activations are to be mapped has to be called once"
        )
    return found[0]


def _total(parts: Sequence[Tensor | None], like: Tensor) -> Tensor:
    found = [part for part in parts if part is not None]
    if not found:
        return like.new_zeros(len(like), 1)
    return torch.stack(found).sum(0)
