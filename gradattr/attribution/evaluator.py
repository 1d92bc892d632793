"""What an attribution method needs of a model: logits, and gradients of a scalar per example.

Shapes: n examples, m evaluation points, ``...`` the shape of one input, ``h`` of one stem output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from gradattr.attribution.target import Objective

#: logits (m, classes) -> (class index (m,), scalar to differentiate). What fixes the target once
#: the prediction is known.
Choose = Callable[[Tensor], tuple[Tensor, Objective]]


@dataclass(frozen=True)
class Explained:
    """One chosen scalar at m points: class index (m,), value (m,), gradient (m, h)."""

    index: Tensor
    values: Tensor
    grads: Tensor


class Evaluator(Protocol):
    """A frozen model in eval mode, ready for many input gradients.

    Many networks begin with an affine layer (a convolution, a linear layer). On a straight path it
    needs to be evaluated once per image, not once per step, and gradients that are summed anyway
    can be pulled back through it once. So methods work on *stem outputs*:
    ``x -> stem -> h -> rest -> logits``. Where a model has no such layer, the stem is the identity.

    No method changes what it is given, and no row of a result depends on the other rows: a
    non-finite example leaves its neighbours alone.
    """

    @property
    def network(self) -> nn.Module:
        """The model as it came, in eval mode, with the parameters that it was trained with."""

    def logits(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, classes), without a graph."""

    def stem(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, h): the affine part at the front."""

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        """(n, h) -> (n, ...): the transposed linear part of the stem; linear in ``grad_h``.

        ``x_shape`` is (n, ...) with the n of ``grad_h``.
        """

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At m stem outputs: (values (m,), gradients of the values (m, h), logits (m, classes)).

        ``index`` (m,) is the class of each point.
        """

    def logits_and_gradients(
        self, h: Tensor, choices: Sequence[Choose]
    ) -> tuple[Tensor, list[Explained]]:
        """At m stem outputs: logits (m, classes), and each choice's scalar with its gradient.

        One forward pass serves the prediction and every choice, one backward pass each choice.
        Without choices it is a forward pass without a graph. Equal to ``gradients`` with the
        index and objective that the choice returned.
        """


class PlainEvaluator:
    """The model as it is: no folding, no stem. The reference that fast ones are held against.

    Puts the model into eval mode. Models see copies of the points, because some change their input
    in place (an in-place ReLU at the front).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    @property
    def network(self) -> nn.Module:
        return self.model

    def logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x.clone())

    def stem(self, x: Tensor) -> Tensor:
        return x

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        return grad_h

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, (explained,) = self.logits_and_gradients(h, [lambda _: (index, objective)])
        return explained.values, explained.grads, logits

    def logits_and_gradients(
        self, h: Tensor, choices: Sequence[Choose]
    ) -> tuple[Tensor, list[Explained]]:
        if not choices:
            return self.logits(h), []
        leaf = h.detach().requires_grad_(True)
        explained = []
        with torch.enable_grad():
            logits = self.model(leaf.clone())
            if not logits.requires_grad:
                raise ValueError("the model's output is not a differentiable function of its input")
            for number, choose in enumerate(choices, start=1):
                index, objective = choose(logits.detach())
                values = objective(logits, index)
                (grad,) = torch.autograd.grad(
                    values.sum(), leaf, retain_graph=number < len(choices)
                )
                explained.append(Explained(index, values.detach(), grad))
        return logits.detach(), explained
