"""What is known of a path once it has been walked: does confidence grow from x' to x?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PathFacts:
    """Of the paths of n samples."""

    baseline_confidence: Tensor
    """(n,) softmax probability of the explained class at x'."""
    spearman: Tensor
    """(n,) Spearman's correlation of the place on the path with that probability at x', at the
    steps and at x; ties at their average rank, NaN where the probability never changes."""


def log_confidence(logits: Tensor, index: Tensor) -> Tensor:
    """(m,) log-probability of class ``index``, float64, from its margin over the other classes: it
    still differs where p rounds to 1."""
    logits = logits.double()
    others = logits.scatter(1, index[:, None], -torch.inf).logsumexp(1)
    return F.logsigmoid(logits.gather(1, index[:, None])[:, 0] - others)


def path_facts(
    start: Tensor, steps: Sequence[Tensor], end: Tensor, alphas: Sequence[float]
) -> PathFacts:
    """The facts from log-probabilities (n,) at x', at each step, and at x.

    ``alphas``: where the steps lie between x' (0) and x (1), in ascending order.
    """
    between = [one for one, alpha in zip(steps, alphas, strict=True) if 0 < alpha < 1]
    walked = torch.stack([start, *between, end], dim=1)
    return PathFacts(start.exp(), monotonicity(walked))


def monotonicity(values: Tensor) -> Tensor:
    """(n,) Spearman's correlation of each row of ``values`` (n, k) with 1..k."""
    ordered = values.sort(dim=1).values.contiguous()
    values = values.contiguous()
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    ranks = (below + up_to).double()
    ranks = ranks - ranks.mean(1, keepdim=True)
    places = torch.arange(values.shape[1], dtype=torch.float64, device=values.device)
    places = places - places.mean()
    found = ranks @ places / (ranks.norm(dim=1) * places.norm())
    return torch.where(torch.isfinite(values).all(1), found, torch.full_like(found, torch.nan))
