"""What an attribution method needs of a model: logits, and gradients of a scalar per example.

Shapes: n examples, m evaluation points, ``...`` the shape of one input, ``h`` of one stem output.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from gradattr.attribution.target import Objective


class Evaluator(Protocol):
    """A frozen model in eval mode, ready for many input gradients.

    Many networks begin with an affine layer (a convolution, a linear layer). On a straight path it
    needs to be evaluated once per image, not once per step, and gradients that are summed anyway
    can be pulled back through it once. So methods work on *stem outputs*:
    ``x -> stem -> h -> rest -> logits``. Where a model has no such layer, the stem is the identity.
    """

    def logits(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, classes), without a graph."""

    def stem(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, h): the affine part at the front."""

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        """(n, h) -> (n, ...): the transposed linear part of the stem; linear in ``grad_h``."""

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At m stem outputs: (values (m,), gradients of the values (m, h), logits (m, classes)).

        ``index`` (m,) is the class of each point.
        """


class PlainEvaluator:
    """The model as it is: no folding, no stem. The reference that fast ones are held against."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x)

    def stem(self, x: Tensor) -> Tensor:
        return x

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        return grad_h

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        leaf = h.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(leaf)
            values = objective(logits, index)
            (grad,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), grad, logits.detach()
