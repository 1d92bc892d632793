"""Weight gradients kept as sums of outer products, and the cheapest way to multiply them.

For one example and group the gradient is the matrix ``G = sum_p δ_p a_p^T`` (o, k). Three ways to
scalar products <G_i, D_t> and norms ||G_i||, equal up to rounding:

    direct   write G down for a few examples at a time, then multiply: o k (p + q) products
    applied  <G, D> = sum_p δ_p^T D a_p: q o k p products, nothing written down; the best for p = 1
    gram     ||G||^2 = sum_{p,r} (a_p · a_r) (δ_p · δ_r): p^2 (k + o) products; for few positions,
             and for <G_i, G_t> with a query whose factors have been kept

The cost of each is known before, so the choice needs no clock and is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Factors:
    """``inputs`` a (n, g, p, k) and ``grads`` δ (n, g, p, o) of a layer on n examples."""

    inputs: Tensor
    grads: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Factors]) -> Factors:
        """Several calls of one layer: positions side by side."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.inputs for part in parts], 2),
            torch.cat([part.grads for part in parts], 2),
        )

    @classmethod
    def stacked(cls, parts: Sequence[Factors]) -> Factors:
        """Several batches of examples: one after another."""
        return cls(
            torch.cat([part.inputs for part in parts]), torch.cat([part.grads for part in parts])
        )

    def matrices(self) -> Tensor:
        """The gradients themselves (n, g, o, k)."""
        return self.grads.transpose(2, 3) @ self.inputs

    def sums(self) -> Tensor:
        """Gradients of the bias (n, g o)."""
        return self.grads.sum(2).flatten(1)

    def applied(self, directions: Tensor) -> Tensor:
        """sum_p δ_p^T D_t a_p: (n, q)."""
        moved = torch.einsum("ngpk,qgok->nqgpo", self.inputs, directions)
        return torch.einsum("nqgpo,ngpo->nq", moved, self.grads)

    def gram(self) -> Tensor:
        """Squared norms (n,) without the matrices."""
        if self.inputs.shape[2] == 1:
            by_group = self.inputs.square().sum(3) * self.grads.square().sum(3)
            return by_group.sum((1, 2))
        inputs = self.inputs @ self.inputs.transpose(2, 3)
        grads = self.grads @ self.grads.transpose(2, 3)
        return (inputs * grads).sum((1, 2, 3))

    def against(self, queries: Factors) -> Tensor:
        """Scalar products (n, q) with gradients that are factors themselves."""
        n, groups, positions, _ = self.inputs.shape
        shape = (groups, n, positions, len(queries.inputs), -1)
        inputs = self._side_by_side(self.inputs) @ self._side_by_side(queries.inputs).mT
        grads = self._side_by_side(self.grads) @ self._side_by_side(queries.grads).mT
        return (inputs * grads).view(shape).sum((0, 2, 4))

    @staticmethod
    def _side_by_side(values: Tensor) -> Tensor:
        """(n, g, p, d) -> (g, n p, d)."""
        return values.transpose(0, 1).flatten(1, 2)


@dataclass(frozen=True)
class Size:
    """Of one example's factors: positions p, inputs k and outputs o of one group."""

    positions: int
    inputs: int
    outputs: int

    @property
    def few_positions(self) -> bool:
        """Whether factors are smaller than the matrix, and their products cheaper."""
        return self.positions * (self.inputs + self.outputs) < self.inputs * self.outputs


def cheapest(size: Size, queries: int, norms: bool, query_positions: int = 0) -> tuple[str, str]:
    """How to form the scalar products ('direct', 'applied', 'gram') and the norms ('direct',
    'gram'). ``query_positions``: of the queries' own factors, 0 if there are none."""
    matrix, both = size.outputs * size.inputs, size.outputs + size.inputs
    write = matrix * size.positions
    dots = {"applied": queries * (write + size.outputs * size.positions)}
    if query_positions:
        dots["gram"] = queries * size.positions * query_positions * both
    squares = {"gram": size.positions**2 * both} if norms else {"gram": 0}
    costs = {(d, s): dots[d] + squares[s] for d in dots for s in squares}
    if queries:
        costs |= {("direct", s): write + matrix * queries + squares[s] for s in squares}
    if norms:
        costs |= {(d, "direct"): dots[d] + write + matrix for d in dots}
        costs["direct", "direct"] = write + matrix * (queries + 1)
    return min(costs, key=lambda forms: costs[forms])


def against(rows: Tensor, directions: Tensor) -> Tensor:
    """Scalar products (n, q) of long rows (n, ...) with few directions (q, ...)."""
    # The other way round the matrix product takes up to twice as long.
    return (directions.flatten(1) @ rows.flatten(1).T).T


def row_squares(matrices: Tensor) -> Tensor:
    """Squared Euclidean norms: (..., d) -> (...)."""
    if matrices.requires_grad:
        return (matrices * matrices).sum(-1)
    return torch.linalg.vector_norm(matrices, dim=-1).square()


def products_of(
    gradients: Mapping[str, Tensor], directions: Mapping[str, Tensor] | None, norms: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Scalar products (n, q) and squared norms (n,) of gradients that are written down."""
    dots = squares = None
    for name, values in gradients.items():
        rows = values.flatten(1)
        if directions is not None:
            more = against(rows, directions[name])
            dots = more if dots is None else dots + more
        if norms:
            square = row_squares(rows)
            squares = square if squares is None else squares + square
    return dots, squares
