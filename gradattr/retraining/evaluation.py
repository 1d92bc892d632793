"""Loss and accuracy of a classifier on labelled images, as they are or under attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import DataError
from gradattr.retraining.adversary import Adversary, perturb
from gradattr.retraining.masking import Masking
from gradattr.retraining.team import Team
from gradattr.seeds import derive_seed


@dataclass(frozen=True)
class Evaluation:
    """Of a classifier on a data set."""

    loss: float
    """Mean cross-entropy, nats."""
    accuracy: float
    """Share of images whose largest logit is the label's."""


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int = 256,
    *,
    masking: Masking | None = None,
    team: Team | None = None,
) -> Evaluation:
    """Evaluate ``model`` on images x (n, c, h, w) with labels y (n,), masked by ``masking``.

    The model is evaluated in eval mode, on the device of its parameters, and left in the mode in
    which it came. With a ``team``, each process evaluates its share and all get the whole result.
    Raises DataError if there are no images, or masks that do not fit them.
    """
    return _evaluate(model, x, y, batch_size, masking, None, team or Team())


def evaluate_robust(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    adversary: Adversary,
    batch_size: int = 256,
    *,
    masking: Masking | None = None,
    team: Team | None = None,
) -> Evaluation:
    """As ``evaluate``, of images that ``adversary`` perturbed (after they were masked).

    A random start of the attack is drawn as a function of a batch's place and size.
    """
    return _evaluate(model, x, y, batch_size, masking, adversary, team or Team())


def _evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    masking: Masking | None,
    adversary: Adversary | None,
    team: Team,
) -> Evaluation:
    if not len(x):
        raise DataError("there are no images to evaluate the model on")
    if masking is not None:
        masking.check(x, "test")
    device = next((p.device for p in model.parameters()), x.device)
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    try:
        for start in range(team.rank * batch_size, len(x), team.size * batch_size):
            rows = slice(start, start + batch_size)
            images = x[rows]
            if masking is not None:
                images = masking.apply(images, masking.bins[rows].to(images.device))
            images, labels = images.to(device), y[rows].to(device)
            if adversary is not None:
                seed = derive_seed(0, "robust", start)
                images = perturb(model, images, labels, adversary, seed=seed)
            with torch.no_grad():
                logits = model(images)
                loss += F.cross_entropy(logits, labels, reduction="sum").double()
                correct += (logits.argmax(dim=1) == labels).sum()
    finally:
        model.train(was_training)
    total_loss, total_correct = team.sum([loss, correct], device)
    return Evaluation(total_loss / len(x), total_correct / len(x))
