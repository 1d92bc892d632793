"""Loss and accuracy of a classifier on labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import DataError


@dataclass(frozen=True)
class Evaluation:
    """Of a classifier on a data set."""

    loss: float
    """Mean cross-entropy, nats."""
    accuracy: float
    """Share of images whose largest logit is the label's."""


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 256) -> Evaluation:
    """Evaluate ``model`` on images x (n, c, h, w) with labels y (n,).

    The model is evaluated in eval mode, on the device of its parameters, and left in the mode in
    which it came. Raises DataError if there are no images.
    """
    if not len(x):
        raise DataError("there are no images to evaluate the model on")
    device = next((p.device for p in model.parameters()), x.device)
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    try:
        for start in range(0, len(x), batch_size):
            labels = y[start : start + batch_size].to(device)
            logits = model(x[start : start + batch_size].to(device))
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            correct += (logits.argmax(dim=1) == labels).sum()
    finally:
        model.train(was_training)
    return Evaluation(loss.item() / len(x), correct.item() / len(x))
