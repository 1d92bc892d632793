"""One layer's block of the EK-FAC curvature: two bases and a table of eigenvalues.

The gradient of a layer's weight and bias is one matrix ``G = sum_p δ_p ã_p^T`` (o, k), with ã the
inputs and a last coordinate 1 for the bias. In the bases Q_out, Q_in (the eigenvectors of the
second moments of δ and ã) the curvature is taken to be diagonal: element (i, j) has the eigenvalue
``E[(Q_out^T G Q_in)_ij^2]``.

Letters: n examples, q directions, p positions, o outputs, k inputs (the 1 among them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.influence.layers import CHUNK_BYTES, Call, FactoredLayer, Layer


@dataclass(frozen=True)
class Owner:
    """Names of the weight and the bias that a block is about; None for one that is not chosen."""

    weight: str | None
    bias: str | None

    @classmethod
    def of(cls, layer: Layer) -> Owner | None:
        """The owner of a layer's block; None for layers that are no single outer product."""
        if not isinstance(layer, FactoredLayer) or getattr(layer.module, "groups", 1) != 1:
            return None
        return cls(layer.names.get("weight"), layer.names.get("bias"))

    @property
    def names(self) -> list[str]:
        return [name for name in (self.weight, self.bias) if name is not None]

    def matrix(self, values: Mapping[str, Tensor]) -> Tensor:
        """{name: (q, *shape)} -> (q, o, k), the bias as last column."""
        parts = []
        if self.weight is not None:
            weight = values[self.weight]
            # The order in which a convolution's patches are written down: channels last.
            parts.append(weight.movedim(2, -1).flatten(2) if weight.dim() > 3 else weight)
        if self.bias is not None:
            parts.append(values[self.bias][:, :, None])
        return torch.cat(parts, 2)

    def split(self, matrix: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The inverse of ``matrix``."""
        found = {}
        if self.bias is not None:
            matrix, found[self.bias] = matrix[:, :, :-1], matrix[:, :, -1].contiguous()
        if self.weight is not None:
            shape = shapes[self.weight]
            if len(shape) > 2:
                matrix = torch.unflatten(matrix, 2, (*shape[2:], shape[1])).movedim(-1, 2)
            found[self.weight] = matrix.contiguous()
        return found


class Moments:
    """Sums over examples and positions of ã ã^T (k, k) and δ δ^T (o, o), in float64."""

    def __init__(self) -> None:
        self.inputs: Tensor | float = 0.0
        self.grads: Tensor | float = 0.0

    def add(
        self, owner: Owner, layer: FactoredLayer, calls: Sequence[Call], inputs_too: bool
    ) -> None:
        """The examples of one batch; only their output gradients, if their inputs were there."""
        for part in _chunks(layer, calls):
            factors = layer.joined(part)
            grads = factors.grads.flatten(0, 2)
            self.grads = self.grads + (grads.T @ grads).double()
            if inputs_too:
                inputs = _with_one(owner, factors.inputs.flatten(0, 2))
                self.inputs = self.inputs + (inputs.T @ inputs).double()

    def bases(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Q_out (o, o), Q_in (k, k): eigenvectors in columns, found in float64."""
        assert isinstance(self.inputs, Tensor) and isinstance(self.grads, Tensor)
        found = [torch.linalg.eigh((m + m.T) / 2)[1] for m in (self.grads, self.inputs)]
        return found[0].to(dtype).contiguous(), found[1].to(dtype).contiguous()


@dataclass
class Block:
    """``basis_out`` (o, o), ``basis_in`` (k, k), orthogonal; ``eigenvalues`` (o, k)."""

    owner: Owner
    basis_out: Tensor
    basis_in: Tensor
    eigenvalues: Tensor

    def solve(self, matrix: Tensor, damping: float) -> Tensor:
        """(curvature + damping I)^-1 of matrices (q, o, k)."""
        rotated = self.basis_out.T @ matrix @ self.basis_in
        return self.basis_out @ (rotated / (self.eigenvalues + damping)) @ self.basis_in.T

    def sum_of_squares(self, layer: FactoredLayer, calls: Sequence[Call]) -> Tensor:
        """sum over examples of (Q_out^T G Q_in)^2, element by element: (o, k) in float64."""
        total = torch.zeros(self.eigenvalues.shape, dtype=torch.float64).to(self.eigenvalues.device)
        for grads, inputs, matrices in self._rotated(layer, calls):
            if matrices is None:  # one position: squares of products are products of squares
                total += (grads.square().T @ inputs.square()).double()
            else:
                total += matrices.square().sum(0).double()
        return total

    def inverse_squares(
        self, layer: FactoredLayer, calls: Sequence[Call], damping: float
    ) -> Tensor:
        """||(curvature + damping I)^-1 G||^2 of each example (n,): the bases change no length."""
        weights = (self.eigenvalues + damping).reciprocal().square()
        parts = []
        for grads, inputs, matrices in self._rotated(layer, calls):
            if matrices is None:
                parts.append(((grads.square() @ weights) * inputs.square()).sum(1))
            else:
                parts.append(matrices.square().flatten(1) @ weights.flatten())
        return torch.cat(parts)

    def _rotated(
        self, layer: FactoredLayer, calls: Sequence[Call]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """δ Q_out and ã Q_in where a layer has one position; else Q_out^T G Q_in (n, o, k)."""
        outputs, inputs = self.eigenvalues.shape
        positions = layer.size(calls).positions
        nothing = self.eigenvalues.new_empty(0)
        for part in _chunks(layer, calls):
            # Whichever is fewer operations: the bases on the factors, or on the matrices.
            if positions * (outputs**2 + inputs**2) > outputs * inputs * (outputs + inputs):
                matrices = self._matrices(layer, part)
                yield nothing, nothing, self.basis_out.T @ matrices @ self.basis_in
                continue
            factors = layer.joined(part)
            grads = factors.grads.squeeze(1) @ self.basis_out
            rows = _with_one(self.owner, factors.inputs.squeeze(1)) @ self.basis_in
            if positions == 1:
                yield grads.squeeze(1), rows.squeeze(1), None
            else:
                yield nothing, nothing, grads.mT @ rows

    def _matrices(self, layer: FactoredLayer, calls: Sequence[Call]) -> Tensor:
        parts = []
        if self.owner.weight is not None:
            parts.append(layer.matrices(calls).squeeze(1))
        if self.owner.bias is not None:
            parts.append(layer.sums(calls)[:, :, None])
        return torch.cat(parts, 2)


def _with_one(owner: Owner, inputs: Tensor) -> Tensor:
    """(..., inputs) -> (..., k)."""
    if owner.weight is None:
        return inputs.new_ones(*inputs.shape[:-1], 1)
    if owner.bias is None:
        return inputs
    return nn.functional.pad(inputs, (0, 1), value=1.0)


def _chunks(layer: FactoredLayer, calls: Sequence[Call]) -> Iterator[list[Call]]:
    """A few examples at a time: patches and matrices are larger than what was captured."""
    one = layer.size(calls)
    values = 2 * (one.inputs * one.outputs + one.positions * (one.inputs + one.outputs))
    size = max(1, CHUNK_BYTES // (values * calls[0].inputs.element_size()))
    for first in range(0, len(calls[0].inputs), size):
        rows = slice(first, first + size)
        yield [Call(call.inputs[rows], call.grads[rows]) for call in calls]
