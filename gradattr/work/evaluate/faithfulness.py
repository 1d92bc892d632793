"""Metrics that change images and look at what the model says then."""

from __future__ import annotations

from torch import Tensor

from gradattr.attribution.baselines import Black, Blur, Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.manifest.faithfulness_metrics import (
    DeletionMetric,
    InsertionMetric,
    MuFidelityMetric,
)
from gradattr.manifest.metric_base import Fill, ForwardMetric
from gradattr.metrics.deletion_insertion import Curves, deletion, insertion
from gradattr.work.evaluate.subject import Judged, Subject


def judge_deletion(metric: DeletionMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """The curve as the highest-ranked pixels go, and the area under it."""
    return _areas(
        deletion(
            evaluator,
            subject.x,
            subject.maps,
            subject.index,
            seeds=subject.seeds,
            steps=metric.steps,
            fill=filled(metric.fill, metric, subject),
            per_pixel=metric.per_pixel,
            rank=metric.rank,
            score=metric.score,
            batch_size=subject.loaded.batch_size,
            unchanged=known_scores(metric, subject, evaluator),
        )
    )


def judge_insertion(metric: InsertionMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """The curve as the highest-ranked pixels come, and the area under it."""
    return _areas(
        insertion(
            evaluator,
            subject.x,
            subject.maps,
            subject.index,
            seeds=subject.seeds,
            steps=metric.steps,
            start=filled(metric.start, metric, subject),
            per_pixel=metric.per_pixel,
            rank=metric.rank,
            score=metric.score,
            batch_size=subject.loaded.batch_size,
            unchanged=known_scores(metric, subject, evaluator),
        )
    )


def known_scores(metric: ForwardMetric, subject: Subject, evaluator: Evaluator) -> Tensor | None:
    """(n,) scores of the images as they are, if this evaluator has been asked for them before."""
    same = evaluator is subject.loaded.evaluator
    return subject.unchanged(metric.score) if same else None


def filled(
    fill: Fill, metric: DeletionMetric | InsertionMetric | MuFidelityMetric, subject: Subject
) -> float | Tensor:
    """What stands for missing pixels: a number, or images that broadcast over the subject's."""
    if fill == "mean":
        return 0.0
    if fill == "black":
        normalization = subject.loaded.normalization
        return Black().draw(subject.x[:1], [0], 0, normalization)[:, :, :1, :1]
    if fill == "blur":
        blur = Blur(metric.kernel, metric.sigma)
        return blur.draw(subject.x, subject.seeds, 0, Normalization())
    assert isinstance(fill, float)
    return fill


def _areas(found: list[Curves]) -> Judged:
    return Judged({"auc": [one.auc for one in found]}, {"": [one.values for one in found]})
