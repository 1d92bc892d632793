"""Scalar products and norms of per-example gradients, without the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from gradattr.errors import MethodError, ModelError
from gradattr.influence.directions import Directions, Loss, cross_entropy, query_loss
from gradattr.influence.factors import Factors, products_of
from gradattr.influence.layers import Call, Gradients, Layer, Prepared
from gradattr.influence.wiring import Plan, Wiring, find_wiring, frozen_copy, laid_out, wire

#: Bytes that layers keep for one batch: 64 images of 32 pixels in a ResNet-20, 8 of 224 in a
#: ResNet-18, where throughput is flat.
BATCH_BYTES = 320 * 2**20
LARGEST_BATCH = 256

#: {parameter name: gradients (rows, *shape)} of some rows of the batch at hand.
ConsumeGradients = Callable[[slice, dict[str, Tensor]], None]


class GradientProducts:
    """Exact products of g_i = d loss(f(x_i), y_i) / d theta with directions, one pass per batch.

    ``model``: nn.Module, (n, ...) -> (n, classes); a frozen copy in eval mode is taken, so later
    training of the model changes nothing here. ``loss``: (outputs, labels) -> (n,), by default
    cross-entropy. ``parameters``: glob patterns of parameter names ('fc.*', 'layer4.*'), None for
    all of them. ``batch_size``: examples per pass, None to choose it from memory.

    Per layer the products follow from its inputs and output gradients; parameters that no rule
    covers go through torch.func, chosen by itself. ``report`` says what was done, after the first
    batch. Results do not depend on how examples are batched beyond rounding.

    Raises MethodError for a pattern that matches no parameter; ModelError (with the first batch)
    for a model that mixes the examples of a batch or whose loss no chosen parameter moves.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss = cross_entropy,
        parameters: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.model = frozen_copy(model)
        self.loss = loss
        self.names = choose_parameters(self.model, parameters)
        self.batch_size = batch_size
        self.report: dict[str, Any] = {}
        self._wiring: Wiring | None = None
        self._unfolded: Wiring | None = None

    def directions(self, x: Tensor, y: Tensor, target: str = "loss_true") -> Directions:
        """Gradients of the queries x (q, ...), y (q,): q directions of the size of the model.

        ``target`` is what the query wants small: 'loss_true', 'loss_pred', or minus 'logit_true',
        'logit_pred'. So a positive product with a training gradient is always a helpful one.
        """
        loss = query_loss(target, self.loss)
        shapes = self.parameter_shapes()
        values = {name: x.new_zeros(len(x), *shape) for name, shape in shapes.items()}
        factors: dict[str, list[Factors]] = {}

        def keep(rows: slice, gradients: dict[str, Tensor]) -> None:
            for name, value in gradients.items():
                values[name][rows] = value

        def note(layer: Layer, calls: list[Call]) -> None:
            for name, more in layer.kept_factors(calls).items():
                factors.setdefault(name, []).append(more)

        self.visit_gradients(x, y, keep, loss=loss, note=note)
        joined = {name: Factors.stacked(parts) for name, parts in factors.items()}
        return Directions(values, joined)

    def dots(self, x: Tensor, y: Tensor, directions: Directions) -> Tensor:
        """<g_i, u_t>: (n, q)."""
        return self._products(x, y, directions, norms=False)[0]

    def norms(self, x: Tensor, y: Tensor) -> Tensor:
        """||g_i||: (n,)."""
        return self._products(x, y, None, norms=True)[1]

    def dots_and_norms(self, x: Tensor, y: Tensor, directions: Directions) -> tuple[Tensor, Tensor]:
        """<g_i, u_t> (n, q) and ||g_i|| (n,) from one pass."""
        return self._products(x, y, directions, norms=True)

    def visit_gradients(
        self,
        x: Tensor,
        y: Tensor,
        consume: ConsumeGradients,
        *,
        loss: Loss | None = None,
        note: Callable[[Layer, list[Call]], None] | None = None,
    ) -> None:
        """Hand on the gradients themselves, some rows of one layer at a time, as they come.

        ``consume(rows, {name: (rows, *shape)})``; a layer that the loss does not reach is left out.
        ``note`` sees the layers themselves.
        """
        for rows, wiring in self._batches(x, y):

            def by_layer(layer: Layer, calls: list[Call], rows: slice = rows) -> None:
                consume(rows, layer.gradients(calls))
                if note is not None:
                    note(layer, calls)

            def by_example(part: slice, values: dict[str, Tensor], first: int = rows.start) -> None:
                consume(slice(first + part.start, first + part.stop), values)

            self._pass(wiring, x[rows], y[rows], loss or self.loss, by_layer, by_example)

    def wiring(self, x: Tensor, y: Tensor) -> Wiring:
        """The rewritten model and its layers; found with the first examples given."""
        if self._wiring is None:
            if len(x) == 0:
                raise MethodError("no examples were given")
            plan, precision = find_wiring(self.model, self.names, x[:2], y[:2], self.loss)
            self._wiring = self._wired(plan)
            if self.batch_size is None:
                self.batch_size = self._choose_batch(self._wiring, x[:1], y[:1])
            self.report = {
                "parameters": sum(shape.numel() for shape in self.parameter_shapes().values()),
                "verified_in": precision,
                "batch_size": self.batch_size,
            }
        self.report.update(self._wiring.report())
        return self._wiring

    def unfolded(self, x: Tensor, y: Tensor) -> Wiring:
        """The same with no layer merged into another."""
        plan = self.wiring(x, y).plan
        if self._unfolded is None:
            self._unfolded = self._wired(replace(plan, folding=False))
        return self._unfolded

    def visit_layers(
        self,
        x: Tensor,
        y: Tensor,
        by_layer: Callable[[slice, Layer, list[Call]], None],
        by_example: ConsumeGradients,
        *,
        loss: Loss | None = None,
    ) -> None:
        """Hand on each layer of the unfolded model with its inputs and output gradients, and the
        gradients of the parameters that have no layer, some rows at a time."""
        if len(x) == 0:
            return
        wiring = self.unfolded(x, y)
        size = max(1, (self.batch_size or 1) // 2)  # more is kept than of a folded model
        for first in range(0, len(x), size):
            rows = slice(first, min(first + size, len(x)))

            def layers(layer: Layer, calls: list[Call], rows: slice = rows) -> None:
                by_layer(rows, layer, calls)

            def examples(part: slice, values: dict[str, Tensor], first: int = first) -> None:
                by_example(slice(first + part.start, first + part.stop), values)

            self._pass(wiring, x[rows], y[rows], loss or self.loss, layers, examples)

    def parameter_shapes(self) -> dict[str, torch.Size]:
        """The chosen parameters and their shapes, in the model's order."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        return {name: parameters[name].shape for name in self.names}

    def _products(
        self, x: Tensor, y: Tensor, directions: Directions | None, norms: bool
    ) -> tuple[Tensor, Tensor]:
        queries = 0 if directions is None else len(directions)
        # Summed over layers in float64: the sum of many small products loses nothing.
        dots = torch.zeros(len(x), queries, dtype=torch.float64, device=x.device)
        squares = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        values = None if directions is None else directions.values
        prepared: dict[Layer, Prepared | None] = {}

        for rows, wiring in self._batches(x, y):
            if not prepared:
                prepared = {
                    layer: None if directions is None else layer.prepare(directions)
                    for layer in wiring.layers
                }
            into = _Sums(dots[rows], squares[rows], norms, values, prepared)
            self._pass(wiring, x[rows], y[rows], self.loss, into.layer, into.gradients)
        return dots.to(x.dtype), squares.sqrt().to(x.dtype)

    def _batches(self, x: Tensor, y: Tensor) -> Iterator[tuple[slice, Wiring]]:
        if len(x) != len(y):
            raise MethodError(f"{len(x)} examples and {len(y)} labels were given")
        if len(x) == 0:
            return
        wiring = self.wiring(x, y)
        size = self.batch_size or 1
        for first in range(0, len(x), size):
            yield slice(first, min(first + size, len(x))), wiring

    def _pass(
        self,
        wiring: Wiring,
        x: Tensor,
        y: Tensor,
        loss: Loss,
        by_layer: Callable[[Layer, list[Call]], None],
        by_example: ConsumeGradients,
    ) -> None:
        if wiring.layers or wiring.spread:
            watch = wiring.watch()
            watch.consume_spread = lambda values: by_example(slice(0, len(x)), values)
            watch.backward(laid_out(wiring.model, x), y, loss, by_layer)
        if wiring.fallback is not None:
            wiring.fallback.visit(x, y, loss, by_example)

    def _wired(self, plan: Plan) -> Wiring:
        wiring = wire(self.model, self.names, plan)
        device = next(self.model.parameters()).device
        if device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in wiring.model.modules()):
            wiring.model.to(memory_format=torch.channels_last)
        return wiring

    def _choose_batch(self, wiring: Wiring, x: Tensor, y: Tensor) -> int:
        """A power of two whose captured activations fit the budget."""
        kept = 1

        def count(_: Layer, calls: list[Call]) -> None:
            nonlocal kept
            kept += sum(
                (c.inputs.numel() + c.grads.numel()) * c.inputs.element_size() for c in calls
            )

        if wiring.layers or wiring.spread:
            wiring.watch().backward(laid_out(wiring.model, x), y, self.loss, count)
        batch = LARGEST_BATCH
        while batch > 1 and batch * kept > BATCH_BYTES:
            batch //= 2
        return batch


@dataclass
class _Sums:
    """Where the products of one batch are added up, layer by layer."""

    dots: Tensor
    squares: Tensor
    norms: bool
    values: Gradients | None
    prepared: Mapping[Layer, Prepared | None]

    def layer(self, layer: Layer, calls: list[Call]) -> None:
        self._add(slice(None), layer.products(calls, self.prepared[layer], self.norms))

    def gradients(self, rows: slice, values: dict[str, Tensor]) -> None:
        self._add(rows, products_of(values, self.values, self.norms))

    def _add(self, rows: slice, found: tuple[Tensor | None, Tensor | None]) -> None:
        for total, more in zip((self.dots, self.squares), found, strict=True):
            if more is not None:
                total[rows] += more


def choose_parameters(model: nn.Module, patterns: Sequence[str] | None) -> list[str]:
    """Names of the floating-point parameters that any pattern matches, in the model's order.

    Raises MethodError for a pattern without a match, ModelError for a model without parameters.
    """
    names = [name for name, p in model.named_parameters() if p.is_floating_point()]
    if not names:
        raise ModelError("the model has no parameters: there are no gradients to compare")
    if patterns is None:
        return names
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join([*names[:3], "...", *names[-3:]])
            raise MethodError(f"no parameter matches '{pattern}'; the model has {some}")
    return [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
