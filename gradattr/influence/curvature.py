"""The inverse of the damped curvature, times a vector: what influence functions need.

The curvature is a mean over training examples, at the model as it is:

    'hessian'       H = 1/N sum_i  d^2 loss_i / d theta^2; may have negative eigenvalues
    'gauss_newton'  G = 1/N sum_i  J_i^T (d^2 loss_i / d outputs^2) J_i, with J the Jacobian of the
                    outputs; without negative ones for a convex loss, equal to H for linear models

It is never written down: products with it come from passes over the data, the inverse from
conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from gradattr.errors import MethodError
from gradattr.influence.directions import Directions
from gradattr.influence.fallback import plain_attention
from gradattr.influence.products import GradientProducts

Matrix = Literal["gauss_newton", "hessian"]
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Solution:
    """(curvature + damping I)^-1 times each direction, and how well it was found.

    ``residuals`` (q,): what is left of the right-hand side, relative to it; ``steps`` taken.
    """

    directions: Directions
    residuals: Tensor
    steps: int


class Curvature:
    """The curvature of the mean loss over x (n, ...), y (n, ...) in the products' parameters.

    Weight decay is not part of it: add its coefficient to the damping. One product costs two
    backward passes over the data per direction.
    """

    def __init__(
        self,
        products: GradientProducts,
        x: Tensor,
        y: Tensor,
        matrix: Matrix = "gauss_newton",
        batch_size: int = 128,
    ) -> None:
        if matrix not in ("gauss_newton", "hessian"):
            raise MethodError(
                f"curvature '{matrix}' was given; expected 'gauss_newton' or 'hessian'"
            )
        self.products, self.x, self.y = products, x, y
        self.matrix = matrix
        self.batch_size = batch_size

    def times(self, directions: Directions) -> Directions:
        """Curvature times each of the q directions: two products per batch and direction."""
        total = {name: torch.zeros_like(value) for name, value in directions.values.items()}
        product = self._hessian if self.matrix == "hessian" else self._gauss_newton
        with plain_attention():
            for first in range(0, len(self.x), self.batch_size):
                rows = slice(first, first + self.batch_size)
                product(self.x[rows], self.y[rows], directions, total)
        return Directions({name: value / len(self.x) for name, value in total.items()})

    def solve(
        self,
        directions: Directions,
        damping: float,
        *,
        tolerance: float = 1e-6,
        max_steps: int = 200,
    ) -> Solution:
        """(curvature + damping I)^-1 times each direction, by conjugate gradients.

        Each direction runs until its residual is below ``tolerance`` times its norm, or
        ``max_steps`` are over: look at ``residuals``. Raises MethodError if the damped matrix has
        a direction of negative curvature, where the method has no meaning.
        """
        if damping < 0:
            raise MethodError(f"damping {damping} was given; expected a number >= 0")

        def apply(flat: Tensor) -> Tensor:
            return self.times(directions.like(flat)).flat() + damping * flat

        def negative(curvature: float) -> MethodError:
            return MethodError(
                f"the curvature ({self.matrix}) plus damping {damping:g} is not positive: "
                f"{curvature:.3g} along a direction of unit length. Raise the damping"
                + (", or take 'gauss_newton'" if self.matrix == "hessian" else "")
            )

        flat, residuals, steps = conjugate_gradients(
            apply, directions.flat(), tolerance, max_steps, negative
        )
        return Solution(directions.like(flat), residuals, steps)

    def _leaves(self) -> Parameters:
        values = dict(self.products.model.named_parameters(remove_duplicate=False))
        return {name: values[name].detach().requires_grad_() for name in self.products.names}

    def _hessian(self, x: Tensor, y: Tensor, directions: Directions, total: Parameters) -> None:
        leaves = self._leaves()
        with torch.enable_grad():
            outputs = functional_call(self.products.model, leaves, (x.clone(),))
            loss = self.products.loss(outputs, y).sum()
            grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            for number in range(len(directions)):
                along = torch.stack(
                    [
                        (g * directions.values[n][number]).sum()
                        for n, g in zip(leaves, grads, strict=True)
                    ]
                ).sum()
                _add(total, number, along, leaves)

    def _gauss_newton(
        self, x: Tensor, y: Tensor, directions: Directions, total: Parameters
    ) -> None:
        leaves = self._leaves()
        fixed = {name: value.detach() for name, value in leaves.items()}

        def outputs_of(values: Parameters) -> Tensor:
            result: Tensor = functional_call(self.products.model, values, (x.clone(),))
            return result

        with torch.enable_grad():
            outputs = outputs_of(leaves)
            point = outputs.detach().requires_grad_()
            loss = self.products.loss(point, y).sum()
            (slope,) = torch.autograd.grad(loss, point, create_graph=True)
        for number in range(len(directions)):
            tangents = {name: directions.values[name][number] for name in leaves}
            moved = jvp(outputs_of, (fixed,), (tangents,))[1]
            if slope.requires_grad:
                (bent,) = torch.autograd.grad(slope, point, moved.detach(), retain_graph=True)
            else:  # a loss that is linear in the outputs
                bent = torch.zeros_like(moved)
            _add(total, number, (outputs * bent).sum(), leaves)


def _add(total: Parameters, number: int, scalar: Tensor, leaves: Parameters) -> None:
    if not scalar.requires_grad:
        return
    found = torch.autograd.grad(scalar, list(leaves.values()), retain_graph=True, allow_unused=True)
    for name, grad in zip(leaves, found, strict=True):
        if grad is not None:
            total[name][number] += grad


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float,
    max_steps: int,
    negative: Callable[[float], Exception],
) -> tuple[Tensor, Tensor, int]:
    """Solve ``apply(s) = right`` for each row of right (q, d), apply symmetric and positive.

    Returns the rows (q, d), their relative residuals (q,) and the steps taken. A row that has
    converged stands still. Raises ``negative(curvature)`` for a direction that apply turns round.
    """
    solution = torch.zeros_like(right)
    residual = right.clone()
    direction = residual.clone()
    size = (residual * residual).sum(1)
    goal = size * tolerance**2
    steps = 0
    while steps < max_steps and bool((size > goal).any()):
        active = size > goal
        image = apply(direction[active])
        curvature = (direction[active] * image).sum(1)
        if bool((curvature <= 0).any()):
            raise negative(float((curvature / direction[active].square().sum(1)).min()))
        length = (size[active] / curvature)[:, None]
        solution[active] += length * direction[active]
        residual[active] -= length * image
        before, size = size, (residual * residual).sum(1)
        turn = torch.where(active, size / before.clamp_min(1e-300), torch.zeros_like(size))
        direction = torch.where(active[:, None], residual + turn[:, None] * direction, direction)
        steps += 1
    scale = (right * right).sum(1)
    residuals = torch.where(scale > 0, size / scale.clamp_min(1e-300), scale).sqrt()
    return solution, residuals, steps
