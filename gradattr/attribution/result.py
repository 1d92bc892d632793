"""What a method returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gradattr.attribution.target import TargetName

Status = Literal["ok", "non_finite", "degenerate"]


@dataclass(frozen=True)
class Attribution:
    """Maps of n samples by one method. Row i of everything belongs to sample i.

    Two fields tell how far to trust a map that claims to split the score up among the inputs:
    ``sum of map = score - baseline_score`` holds up to ``completeness_gap``. They are None for
    methods that claim nothing of the kind.
    """

    method: str
    """The request's id."""
    target: TargetName
    maps: Tensor
    """(n, ...), one score per coordinate of the input."""
    index: Tensor
    """(n,) int64: the class explained."""
    score: Tensor
    """(n,) value of the target scalar at x, by the explained model."""
    logits: Tensor
    """(n, classes) at x; one tensor for all methods of a call."""
    baseline_score: Tensor | None
    """(n,) value (mean value, if there are several baselines) at the baseline: at x' for integrated
    gradients, over the pool for expected gradients and GradientSHAP, at 0 for input x gradient."""
    completeness_gap: Tensor | None
    """(n,) sum of map - (score - baseline_score)."""
    evaluations: int
    """Forward-and-backward passes per sample that the method needs when it runs alone. Forward
    passes that fix the class or score a baseline are not counted."""
    status: tuple[Status, ...]
    """'non_finite' where the map or the score has a NaN or an infinity; 'degenerate' where the
    method has nothing to go by: unlearning moves nothing, so that the baseline is the sample."""
    baseline_confidence: Tensor | None = None
    """(n,) float64: softmax probability of the explained class at the baseline, of methods that
    walk one path from there to x."""
    path_spearman: Tensor | None = None
    """(n,) float64: Spearman's correlation of the place on that path with the probability there, 1
    where it only grows; NaN where it never changes."""


def concatenate(parts: Sequence[Attribution]) -> Attribution:
    """Results of one method on consecutive samples, below one another; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        maps=torch.cat([part.maps for part in parts]),
        index=torch.cat([part.index for part in parts]),
        score=torch.cat([part.score for part in parts]),
        logits=torch.cat([part.logits for part in parts]),
        baseline_score=_joined([part.baseline_score for part in parts]),
        completeness_gap=_joined([part.completeness_gap for part in parts]),
        baseline_confidence=_joined([part.baseline_confidence for part in parts]),
        path_spearman=_joined([part.path_spearman for part in parts]),
        status=tuple(status for part in parts for status in part.status),
    )


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None
