"""Of what scalar the gradient is taken: the target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

#: (logits (m, classes), class index (m,)) -> one scalar per example (m,).
Objective = Callable[[Tensor, Tensor], Tensor]

TargetName = str | int


def logit(logits: Tensor, index: Tensor) -> Tensor:
    """f_c(x): the logit of class c."""
    return logits.gather(1, index[:, None]).squeeze(1)


def probability(logits: Tensor, index: Tensor) -> Tensor:
    """p_c(x) = softmax(f(x))_c, in log space until the end."""
    return torch.log_softmax(logits, dim=1).gather(1, index[:, None]).squeeze(1).exp()


def cross_entropy(logits: Tensor, index: Tensor) -> Tensor:
    """-log p_c(x), in nats."""
    return F.cross_entropy(logits, index, reduction="none")


def resolve_target(
    target: TargetName, logits: Tensor, labels: Tensor | None
) -> tuple[Tensor, Objective]:
    """Return the class index (n,) that each example is explained for, and the scalar.

    ``target`` is 'logit_pred', 'logit_true', 'loss_true', 'loss_pred', 'prob_pred' or a class
    number. ``logits`` (n, classes) are those of the unperturbed examples: the predicted class is
    fixed there and not predicted anew on noisy copies or along a path.

    Raises ValueError if the target needs labels (n,) and there are none, for a class that the model
    does not have, and for an unknown name.
    """
    if isinstance(target, int):
        if not 0 <= target < logits.shape[1]:
            raise ValueError(f"target class {target}: the model has {logits.shape[1]} classes")
        return torch.full((len(logits),), target, device=logits.device), logit
    kind, _, which = target.partition("_")
    scalars = {"logit": logit, "loss": cross_entropy, "prob": probability}
    if kind not in scalars or which not in ("pred", "true"):
        raise ValueError(f"unknown target '{target}'")
    if which == "pred":
        return logits.argmax(dim=1), scalars[kind]
    if labels is None or bool((labels < 0).any()):
        raise ValueError(f"target '{target}' needs a label for every example")
    if bool((labels >= logits.shape[1]).any()):
        raise ValueError(f"label {int(labels.max())}: the model has {logits.shape[1]} classes")
    return labels.to(logits.device), scalars[kind]
