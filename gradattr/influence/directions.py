"""Directions in parameter space: the query gradients that training gradients are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from gradattr.errors import MethodError
from gradattr.influence.factors import Factors

#: (model outputs (n, classes), labels (n, ...)) -> one number per example (n,), to be made small.
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Directions:
    """q vectors in parameter space: {parameter name: (q, *parameter shape)}. Not normalised."""

    values: dict[str, Tensor]
    #: Of gradients: the factors of some weights' gradients, by parameter name. Redundant; products
    #: with training gradients are cheaper where there are few positions.
    factors: dict[str, Factors] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def norms(self) -> Tensor:
        """Euclidean norms over all parameters (q,), summed in float64."""
        squares = [v.flatten(1).double().square().sum(1) for v in self.values.values()]
        return torch.stack(squares).sum(0).sqrt()

    def rows(self, rows: slice) -> Directions:
        """Some of the directions; views, no copies."""
        kept = {n: Factors(f.inputs[rows], f.grads[rows]) for n, f in self.factors.items()}
        return Directions({name: value[rows] for name, value in self.values.items()}, kept)

    def scaled(self, factors: Tensor) -> Directions:
        """Each direction times its factor (q,)."""
        return Directions(
            {
                name: value * factors.to(value).view(-1, *[1] * (value.dim() - 1))
                for name, value in self.values.items()
            }
        )

    def flat(self) -> Tensor:
        """(q, parameters), in the order of ``values``."""
        return torch.cat([value.flatten(1) for value in self.values.values()], 1)

    def like(self, flat: Tensor) -> Directions:
        """(q', parameters) in the order of ``flat()`` back as directions."""
        shapes = [value.shape[1:] for value in self.values.values()]
        parts = torch.split(flat, [shape.numel() for shape in shapes], 1)
        pairs = zip(self.values, parts, shapes, strict=True)
        return Directions({name: part.reshape(-1, *shape) for name, part, shape in pairs})

    @staticmethod
    def joined(parts: Sequence[Directions]) -> Directions:
        """All directions one after another."""
        names = parts[0].values
        return Directions({name: torch.cat([p.values[name] for p in parts]) for name in names})


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """-log p_y(x), in nats: (n, classes) and (n,) -> (n,)."""
    return F.cross_entropy(outputs, labels, reduction="none")


def query_loss(target: str, loss: Loss) -> Loss:
    """What a query wants small: 'loss_true' (default everywhere), 'loss_pred', 'logit_true',
    'logit_pred'.

    A logit is taken with a minus sign. So a positive score means "helpful" for each of them: a
    step on the training example lowers the loss, or raises the logit.

    Raises MethodError for any other name.
    """

    def chosen(outputs: Tensor, labels: Tensor) -> Tensor:
        kind, _, which = target.partition("_")
        index = outputs.detach().argmax(1) if which == "pred" else labels
        if kind == "loss":
            return loss(outputs, index)
        return -outputs.gather(1, index[:, None]).squeeze(1)

    if target not in ("loss_true", "loss_pred", "logit_true", "logit_pred"):
        raise MethodError(
            f"query target '{target}' was given; expected 'loss_true', 'loss_pred', 'logit_true' "
            "or 'logit_pred'"
        )
    return loss if target == "loss_true" else chosen
