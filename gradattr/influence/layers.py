"""Per-example parameter gradients of a layer from what went in and what came back.

A layer that was called on a batch saw its inputs a and, in the backward pass, the gradients δ of
its outputs. That is enough: the gradient of a linear layer's weight is ``sum_p δ_p a_p^T`` over
its positions p, and a convolution is a linear layer on patches. So scalar products and norms of
per-example gradients need no backward pass of their own, and no gradient of a whole model is
stored.

Letters: n examples, q directions, p positions, o outputs, k inputs of one output, g groups.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.influence.directions import Directions
from gradattr.influence.factors import Factors, Size, against, cheapest, products_of, row_squares

#: Bytes of weight gradients and patches written down at a time.
CHUNK_BYTES = 8 * 2**20

#: Products (n, q) and squared norms (n,), each where asked for.
Pair = tuple[Tensor | None, Tensor | None]

#: By parameter name: one gradient per example (n, ...), or one direction per query (q, ...).
Gradients = Mapping[str, Tensor]


@dataclass
class Call:
    """One call of a layer on a batch: its input (n, ...) and the gradient of its output."""

    inputs: Tensor
    grads: Tensor


@dataclass
class Prepared:
    """Directions as one layer wants them, and the factors of its weight's if they were kept."""

    values: dict[str, Tensor]
    factors: Factors | None = None


class Layer(ABC):
    """A layer whose per-example gradients are known in closed form.

    ``names`` says under which name each of its own parameters ('weight', 'bias') is asked for;
    the others are left out of every sum.
    """

    def __init__(self, module: nn.Module, names: Mapping[str, str]) -> None:
        self.module = module
        self.names = dict(names)

    @abstractmethod
    def gradients(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        """{parameter name: (n, *its shape)}; the calls of one batch add up."""

    def kept_factors(self, calls: Sequence[Call]) -> dict[str, Factors]:
        """What to keep with a direction beside its gradients, to make products cheaper."""
        return {}

    def prepare(self, directions: Directions) -> Prepared:
        """The part of the directions that is this layer's, laid out for ``products``. Once for
        many batches."""
        return Prepared({name: directions.values[name] for name in self.names.values()})

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Scalar products with the directions (n, q), and squared norms (n,); None if not asked."""
        values = None if prepared is None else prepared.values
        return products_of(self.gradients(calls), values, norms)

    def _renamed(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: own[short] for short, name in self.names.items()}


class FactoredLayer(Layer):
    """A layer whose weight gradient is a sum of outer products: linear, convolution."""

    @abstractmethod
    def factors(self, call: Call) -> Factors:
        """The outer products of one call."""

    @abstractmethod
    def to_weight(self, matrix: Tensor) -> Tensor:
        """(..., g, o, k) -> (..., *weight shape)."""

    @abstractmethod
    def to_matrix(self, weight: Tensor) -> Tensor:
        """(..., *weight shape) -> (..., g, o, k)."""

    def joined(self, calls: Sequence[Call]) -> Factors:
        """All calls at once: a layer that is used twice has twice the positions."""
        return Factors.joined([self.factors(call) for call in calls])

    def matrices(self, calls: Sequence[Call]) -> Tensor:
        """Gradients of the weight (n, g, o, k)."""
        return self.joined(calls).matrices()

    def gradients(self, calls: Sequence[Call]) -> dict[str, Tensor]:
        own = {}
        if "weight" in self.names:
            own["weight"] = self.to_weight(self.matrices(calls))
        if "bias" in self.names:
            own["bias"] = self.sums(calls)
        return self._renamed(own)

    def sums(self, calls: Sequence[Call]) -> Tensor:
        """Gradients of the bias (n, channels)."""
        return torch.stack([self._summed(call.grads) for call in calls]).sum(0)

    def prepare(self, directions: Directions) -> Prepared:
        own = {short: directions.values[name] for short, name in self.names.items()}
        kept = None
        if "weight" in own:
            kept = directions.factors.get(self.names["weight"])
            own["weight"] = self.to_matrix(own["weight"]).contiguous()
        return Prepared(own, kept)

    def products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        dots, squares = [], []
        for part in self._chunks(calls):
            by_weight: Pair = (None, None)
            by_bias: Pair = (None, None)
            if "weight" in self.names:
                by_weight = self._weight_products(part, prepared, norms)
            if "bias" in self.names:
                biases = None if prepared is None else {"bias": prepared.values["bias"]}
                by_bias = products_of({"bias": self.sums(part)}, biases, norms)
            dots.append(_added(by_weight[0], by_bias[0]))
            squares.append(_added(by_weight[1], by_bias[1]))
        return _joined(dots), _joined(squares)

    def kept_factors(self, calls: Sequence[Call]) -> dict[str, Factors]:
        """{parameter name: factors} of the weight, if they are worth keeping with a direction."""
        if "weight" not in self.names or not self.size(calls).few_positions:
            return {}
        return {self.names["weight"]: self.joined(calls)}

    def size(self, calls: Sequence[Call]) -> Size:
        """Positions, inputs and outputs of one example."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        groups = getattr(self.module, "groups", 1)
        positions = sum(call.grads[0].numel() for call in calls) // len(weight)
        return Size(positions, weight[0].numel(), len(weight) // groups)

    def _weight_products(
        self, calls: Sequence[Call], prepared: Prepared | None, norms: bool
    ) -> Pair:
        directions = None if prepared is None else prepared.values["weight"]
        kept = None if prepared is None else prepared.factors
        queries = 0 if directions is None else len(directions)
        positions = 0 if kept is None else kept.inputs.shape[2]
        dots_by, norms_by = cheapest(self.size(calls), queries, norms, positions)
        matrices = factors = None
        if "direct" in (dots_by, norms_by):
            matrices = self.matrices(calls).flatten(1)
        if {dots_by, norms_by} != {"direct"}:
            factors = self.joined(calls)
        dots = squares = None
        if directions is not None:
            if dots_by == "direct" and matrices is not None:
                dots = against(matrices, directions)
            elif factors is not None:
                gram = dots_by == "gram" and kept is not None
                dots = factors.against(kept) if gram and kept else factors.applied(directions)
        if norms:
            if norms_by == "direct" and matrices is not None:
                squares = row_squares(matrices)
            elif factors is not None:
                squares = factors.gram()
        return dots, squares

    @abstractmethod
    def _summed(self, grads: Tensor) -> Tensor:
        """Sum over positions: (n, ...) -> (n, channels)."""

    def _chunks(self, calls: Sequence[Call]) -> Iterator[list[Call]]:
        """A few examples at a time: patches and matrices are larger than what was captured."""
        n, one = len(calls[0].inputs), self.size(calls)
        groups = getattr(self.module, "groups", 1)
        values = one.inputs * one.outputs + one.positions * (one.inputs + one.outputs)
        size = max(1, CHUNK_BYTES // (groups * values * calls[0].inputs.element_size()))
        for first in range(0, n, size):
            rows = slice(first, first + size)
            yield [Call(call.inputs[rows], call.grads[rows]) for call in calls]


class LinearLayer(FactoredLayer):
    """y = W a + b at every position."""

    def factors(self, call: Call) -> Factors:
        a, grads = call.inputs, call.grads
        n = len(a)
        return Factors(a.reshape(n, 1, -1, a.shape[-1]), grads.reshape(n, 1, -1, grads.shape[-1]))

    def _summed(self, grads: Tensor) -> Tensor:
        return grads.flatten(1, -2).sum(1) if grads.dim() > 2 else grads

    def to_weight(self, matrix: Tensor) -> Tensor:
        return matrix.squeeze(-3)

    def to_matrix(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(-3)


def _added(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    if len(found) <= 1:
        return found[0] if found else None
    return torch.cat(found)
