"""Where the paths of path methods begin: confidence there, and how far away it is."""

from __future__ import annotations

import torch
from torch import Tensor

from gradattr.attribution.paths.baseline_points import baseline_points
from gradattr.attribution.paths.path_facts import log_confidence
from gradattr.manifest.metrics import BaselineMetric
from gradattr.metrics.baseline_distance import BaselineDistance, baseline_distance
from gradattr.work.evaluate.subject import Judged, Subject


def judge_baseline(metric: BaselineMetric, subject: Subject) -> Judged:
    """The fall of confidence that the maps' making has told, and the distances of the same points,
    found again from the same seeds."""
    loaded = subject.loaded
    points = baseline_points(
        loaded.evaluator,
        subject.x,
        subject.requests,
        seeds=subject.seeds,
        normalization=loaded.normalization,
        batch_size=loaded.batch_size,
    )
    away = [baseline_distance(subject.x, starts, loaded.normalization) for starts in points]
    # By the same formula as at the baseline, so that equal answers have no drop.
    at_x = log_confidence(subject.results[0].logits, subject.index).exp().cpu()
    drops = [at_x - _confidence(one.baseline_confidence, at_x) for one in subject.results]
    values = {
        "confidence_drop": drops,
        "falls": [(drop > 0).double().masked_fill(drop.isnan(), torch.nan) for drop in drops],
    }
    for name in BaselineDistance._fields:
        values[name] = [getattr(one, name) for one in away]
    return Judged(values, {})


def _confidence(known: Tensor | None, like: Tensor) -> Tensor:
    return torch.full_like(like, torch.nan) if known is None else known.double().cpu()
