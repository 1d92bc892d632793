"""Products of per-example gradients that can be differentiated once more: for maps.

One backward pass with a graph serves every query. A scalar product with a constant direction is a
function of what went into each layer and of the gradients of what came out. For convolutions its
slopes in those are known in closed form, for other layers they are what autograd makes of it; a
second backward pass carries all of them on to the pixels. No gradient of a parameter is ever
differentiated on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradattr.errors import MethodError
from gradattr.influence.constant_weights import constant_weights
from gradattr.influence.conv_layers import Conv2dLayer
from gradattr.influence.conv_slopes import ConvSlopes, Covector
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


@dataclass(frozen=True)
class Slant:
    """A function of the leaf for each example: ``values`` (n,) now, and what its slope is made of:
    ``graph`` (n,), the part that autograd differentiates, None if there is none, and a covector
    for each convolution."""

    values: Tensor
    graph: Tensor | None
    covectors: list[Covector]

    def minus(self, factor: Tensor, other: Slant) -> Slant:
        """self - factor * other, one constant factor (n,) for each example."""
        graph = self.graph
        if other.graph is not None:
            less = factor * other.graph
            graph = -less if graph is None else graph - less
        return Slant(
            self.values - factor * other.values,
            graph,
            [
                mine.minus(factor, its)
                for mine, its in zip(self.covectors, other.covectors, strict=True)
            ],
        )


@dataclass
class Tape:
    """The gradients of a batch, with a graph back to ``leaf``."""

    leaf: Tensor
    convolutions: list[ConvSlopes] = field(default_factory=list)
    layers: list[tuple[Layer, list[Call]]] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def record(
        cls,
        wiring: Wiring,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        middle: nn.Module | None = None,
        *,
        mixed: bool = False,
    ) -> Tape:
        """Run x (n, ...) forward and backward. The leaf is x, or the output of ``middle``.
        ``mixed``: derivatives of convolutions in bfloat16."""
        tape = cls(x)
        found: list[Tensor] = []

        def keep(layer: Layer, calls: list[Call]) -> None:
            if isinstance(layer, Conv2dLayer) and not layer.prefers_factors(calls):
                tape.convolutions.append(ConvSlopes(layer, calls, mixed))
            else:
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
                    points = laid_out(wiring.model, x)
                    with constant_weights(wiring.model, points, mixed=mixed):
                        watch.backward(points, y, loss, keep, leaf=x)
            finally:
                if handle is not None:
                    handle.remove()
            if wiring.fallback is not None:
                tape.gradients.update(wiring.fallback.gradients(x, y, loss, create_graph=True))
        if middle is not None:
            tape.leaf = _one(found, middle)
        return tape

    def dots(self, direction: Direction) -> Slant:
        """<g_i, u>."""
        with torch.enable_grad():
            parts = [
                layer.products(calls, direction.by_layer[layer], False)[0]
                for layer, calls in self.layers
            ]
            parts.append(products_of(self.gradients, direction.values, False)[0])
            graph = _total(parts)
        covectors = [conv.direction(direction.by_layer[conv.layer]) for conv in self.convolutions]
        return self._slant(None if graph is None else graph[:, 0], covectors)

    def half_squares(self) -> Slant:
        """||g_i||^2 / 2."""
        with torch.enable_grad():
            parts = [layer.products(calls, None, True)[1] for layer, calls in self.layers]
            parts.append(products_of(self.gradients, None, True)[1])
            graph = _total(parts)
        # With c = g held fixed <g, c> has the slope of ||g||^2 / 2, and twice its value.
        own = self._slant(None, [conv.own() for conv in self.convolutions])
        if graph is None:
            return Slant(own.values / 2, None, own.covectors)
        return Slant((own.values + graph.detach()) / 2, graph / 2, own.covectors)

    def slope(self, slant: Slant) -> Tensor:
        """Gradient of each value by its own row of the leaf. The tape can be used again."""
        ends = [
            end
            for conv, covector in zip(self.convolutions, slant.covectors, strict=True)
            for end in conv.slopes(covector)
        ]
        if slant.graph is not None and slant.graph.requires_grad:
            ends.append((slant.graph, torch.ones_like(slant.graph)))
        if not ends:
            return torch.zeros_like(self.leaf)
        values, slopes = zip(*ends, strict=True)
        (found,) = torch.autograd.grad(
            values, self.leaf, slopes, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(self.leaf) if found is None else found

    def _slant(self, graph: Tensor | None, covectors: list[Covector]) -> Slant:
        values = self.leaf.new_zeros(len(self.leaf)) if graph is None else graph.detach()
        for conv, covector in zip(self.convolutions, covectors, strict=True):
            values = values + conv.dots(covector)
        return Slant(values, graph, covectors)


def _one(found: Sequence[Tensor], middle: nn.Module) -> Tensor:
    if len(found) != 1:
        raise MethodError(
            f"{type(middle).__name__} is called {len(found)} times in a forward pass; a layer "
            "whose activations are to be mapped has to be called once"
        )
    return found[0]


def _total(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.stack(found).sum(0) if found else None
