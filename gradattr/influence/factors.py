"""Weight gradients kept as sums of outer products, and the cheapest way to multiply them.

For one example and group the gradient is the matrix ``G = sum_p δ_p a_p^T`` (o, k). Three ways to
scalar products <G_i, D_t> and norms ||G_i||, equal up to rounding:

    direct   write G down for a few examples at a time, then multiply: o k (p + q) products
    applied  <G, D> = sum_p δ_p^T D a_p: q o k p products, nothing written down; the best for p = 1
    gram     ||G||^2 = sum_{p,r} (a_p · a_r) (δ_p · δ_r): p^2 (k + o) products; for few positions

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

    def matrices(self) -> Tensor:
        """The gradients themselves (n, g, o, k)."""
        return self.grads.transpose(2, 3) @ self.inputs

    def sums(self) -> Tensor:
        """Gradients of the bias (n, g o)."""
        return self.grads.sum(2).flatten(1)

    def products(
        self, directions: Tensor | None, norms: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """With directions (q, g, o, k): scalar products (n, q) and squared norms (n,)."""
        queries = 0 if directions is None else len(directions)
        dots_by, norms_by = cheapest(self, queries, norms)
        matrices = self.matrices().flatten(1) if "direct" in (dots_by, norms_by) else None
        dots = squares = None
        if directions is not None:
            if dots_by == "direct" and matrices is not None:
                dots = matrices @ directions.flatten(1).T
            else:
                dots = self.applied(directions)
        if norms:
            by_gram = norms_by == "gram" or matrices is None
            squares = self.gram() if matrices is None or by_gram else row_squares(matrices)
        return dots, squares

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


def cheapest(factors: Factors, queries: int, norms: bool) -> tuple[str, str]:
    """How to form the scalar products ('direct' or 'applied') and the norms ('direct', 'gram')."""
    _, _, positions, inputs = factors.inputs.shape
    outputs = factors.grads.shape[3]
    matrix = outputs * inputs
    direct = matrix * positions
    applied = matrix * positions * queries + outputs * positions * queries
    gram = positions * positions * (inputs + outputs) if norms else 0
    costs = {
        ("direct", "direct"): direct + matrix * (queries + int(norms)),
        ("direct", "gram"): direct + matrix * queries + gram if queries else gram,
        ("applied", "direct"): applied + (direct + matrix if norms else 0),
        ("applied", "gram"): applied + gram,
    }
    best = min(costs, key=lambda forms: costs[forms])
    dots_by, norms_by = best
    return (dots_by if queries else "applied", norms_by if norms else "gram")


def row_squares(matrices: Tensor) -> Tensor:
    """Squared Euclidean norms of rows: (n, d) -> (n,)."""
    return torch.linalg.vecdot(matrices, matrices)


def products_of(
    gradients: Mapping[str, Tensor], directions: Mapping[str, Tensor] | None, norms: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Scalar products (n, q) and squared norms (n,) of gradients that are written down."""
    dots = squares = None
    for name, values in gradients.items():
        rows = values.flatten(1)
        if directions is not None:
            more = rows @ directions[name].flatten(1).T
            dots = more if dots is None else dots + more
        if norms:
            square = row_squares(rows)
            squares = square if squares is None else squares + square
    return dots, squares
