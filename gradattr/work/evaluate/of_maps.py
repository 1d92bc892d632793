"""Metrics that look at the maps themselves, and at what their making has told."""

from __future__ import annotations

import torch
from torch import Tensor

from gradattr.manifest.metrics import (
    CompletenessMetric,
    ComplexityMetric,
    CostMetric,
    LocalisationMetric,
    PathMetric,
)
from gradattr.metrics.complexity import complexity
from gradattr.metrics.localisation import localisation
from gradattr.work.evaluate.subject import Judged, Subject


def judge_path(metric: PathMetric, subject: Subject) -> Judged:
    """Spearman's correlation along the path, as it was walked for the map."""
    # Rounded as the table 'attributions' keeps it: ties are the same, whether the maps are made
    # here or read from another run.
    found = [_or_nan(result.path_spearman, subject).float() for result in subject.results]
    return Judged({"": [one.double() for one in found]}, {})


def judge_completeness(metric: CompletenessMetric, subject: Subject) -> Judged:
    """|gap| / |score - baseline's score|; NaN where the two scores are equal."""
    found = []
    for result in subject.results:
        gap = _or_nan(result.completeness_gap, subject).abs()
        change = (result.score.double().cpu() - _or_nan(result.baseline_score, subject)).abs()
        relative = gap / change
        known = torch.isfinite(relative) & (change > 0)
        found.append(relative.masked_fill(~known, torch.nan))
    return Judged({"gap": found}, {})


def judge_cost(metric: CostMetric, subject: Subject) -> Judged:
    """Model evaluations, the same for every image."""
    n = len(subject.rows)
    counts = [
        torch.full((n,), float(result.evaluations), dtype=torch.float64)
        for result in subject.results
    ]
    return Judged({"evaluations": counts}, {})


def judge_complexity(metric: ComplexityMetric, subject: Subject) -> Judged:
    """Sparseness, entropy and effective complexity of every map."""
    found = [complexity(maps, threshold=metric.threshold) for maps in subject.maps]
    values = {
        "sparseness": [one.sparseness for one in found],
        "entropy": [one.complexity for one in found],
        "effective": [one.effective for one in found],
    }
    return Judged(values, {})


def judge_localisation(metric: LocalisationMetric, subject: Subject) -> Judged:
    """How well every map finds the marked region."""
    masks = subject.masks
    if masks is None:  # a batch of data with masks in which no image could be marked
        masks = torch.zeros((len(subject.rows), *subject.x.shape[2:]), dtype=torch.bool)
    found = [localisation(maps, masks, tolerance=metric.tolerance) for maps in subject.maps]
    names = ("pointing", "mass", "rank", "auc")
    return Judged({name: [getattr(one, name) for one in found] for name in names}, {})


def _or_nan(values: Tensor | None, subject: Subject) -> Tensor:
    if values is None:
        return torch.full((len(subject.rows),), torch.nan, dtype=torch.float64)
    return values.detach().double().cpu()
