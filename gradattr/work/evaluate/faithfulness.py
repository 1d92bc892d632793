"""Metrics that change images and look at what the model says then."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradattr.attribution.baselines import Black, Blur, Normalization
from gradattr.attribution.catalogue import method_info
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.reference_points import reference_points
from gradattr.manifest.faithfulness_metrics import (
    DeletionMetric,
    InfidelityMetric,
    InsertionMetric,
    MuFidelityMetric,
    RoadMetric,
)
from gradattr.manifest.metric_base import Fill, ForwardMetric
from gradattr.metrics.deletion_insertion import Curves, deletion, insertion
from gradattr.metrics.infidelity import (
    GaussianPerturbation,
    Perturbation,
    SquarePatch,
    infidelity,
)
from gradattr.metrics.mu_fidelity import mu_fidelity
from gradattr.metrics.road import road
from gradattr.work.evaluate.subject import Judged, Subject
from gradattr.work.methods import over_channels


def judge_deletion(metric: DeletionMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """The curve as the highest-ranked pixels go, and the area under it."""
    fill = filled(metric.fill, metric, subject)
    return _areas(
        deletion(
            evaluator,
            subject.x,
            subject.maps,
            subject.index,
            fill=fill,
            unchanged=known_scores(metric, subject, evaluator),
            **_stepwise(metric, subject),
        )
    )


def judge_insertion(metric: InsertionMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """The curve as the highest-ranked pixels come, and the area under it."""
    start = filled(metric.start, metric, subject)
    return _areas(
        insertion(
            evaluator,
            subject.x,
            subject.maps,
            subject.index,
            start=start,
            unchanged=known_scores(metric, subject, evaluator),
            **_stepwise(metric, subject),
        )
    )


def judge_mu_fidelity(metric: MuFidelityMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """Both correlations, with their sign and without."""
    found = mu_fidelity(
        evaluator,
        subject.x,
        subject.maps,
        subject.index,
        subsets=metric.subsets,
        share=metric.share,
        grid=metric.grid,
        fill=filled(metric.fill, metric, subject),
        unchanged=known_scores(metric, subject, evaluator),
        **_asked(metric, subject),
    )
    values = {
        "spearman": [one.absolute_spearman for one in found],
        "pearson": [one.absolute_pearson for one in found],
        "spearman_signed": [one.spearman for one in found],
        "pearson_signed": [one.pearson for one in found],
    }
    return Judged(values, {})


def judge_road(metric: RoadMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """The mean distance of the two curves; both, and how often the prediction is the label."""
    # Of an image without a label, that its class stays counts as right: no other image matters.
    labels = torch.where(subject.labels >= 0, subject.labels, subject.index)
    found = road(
        evaluator,
        subject.x,
        subject.maps,
        subject.index,
        labels,
        percentages=metric.percentages,
        noise=metric.noise,
        rank=metric.rank,
        **_asked(metric, subject),
    )
    curves = {
        "morf": [one.morf for one in found],
        "lerf": [one.lerf for one in found],
        "morf_accuracy": [one.morf_correct for one in found],
        "lerf_accuracy": [one.lerf_correct for one in found],
    }
    return Judged({"score": [one.score for one in found]}, curves)


def judge_infidelity(metric: InfidelityMetric, subject: Subject, evaluator: Evaluator) -> Judged:
    """The mean squared error of what the map predicts, as it is and with its best scale."""
    perturbation: Perturbation = GaussianPerturbation(metric.noise)
    if metric.perturbation == "square":
        perturbation = SquarePatch(metric.size)
    found = infidelity(
        evaluator,
        subject.x,
        # A value per pixel is one of all its channels together.
        [over_channels(maps, subject.x.shape[1]) for maps in subject.maps],
        subject.index,
        references=_references(subject),
        perturbation=perturbation,
        samples=metric.samples,
        normalization=subject.loaded.normalization,
        unchanged=known_scores(metric, subject, evaluator),
        **_asked(metric, subject),
    )
    values = {
        "": [one.infidelity for one in found],
        "scaled": [one.scaled for one in found],
    }
    return Judged(values, {})


def known_scores(metric: ForwardMetric, subject: Subject, evaluator: Evaluator) -> Tensor | None:
    """(n,) scores of the images as they are, if they have been asked of this evaluator."""
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


def _references(subject: Subject) -> list[Tensor | None]:
    """What each method's contributions are against; None for maps of slopes."""
    contributing = [method_info(method.name).contributions for method in subject.methods]
    points = iter(
        reference_points(
            subject.loaded.evaluator,
            subject.x,
            [r for r, own in zip(subject.requests, contributing, strict=True) if own],
            seeds=subject.seeds,
            normalization=subject.loaded.normalization,
            batch_size=subject.loaded.batch_size,
        )
    )
    return [next(points) if own else None for own in contributing]


def _asked(metric: ForwardMetric, subject: Subject) -> dict[str, Any]:
    """What every metric is asked with."""
    loaded = subject.loaded
    return {
        "seeds": subject.seeds,
        "score": metric.score,
        "batch_size": min(loaded.batch_size, loaded.forward_batch_size),
    }


def _stepwise(metric: DeletionMetric | InsertionMetric, subject: Subject) -> dict[str, Any]:
    asked = {"steps": metric.steps, "per_pixel": metric.per_pixel, "rank": metric.rank}
    return asked | _asked(metric, subject)


def _areas(found: list[Curves]) -> Judged:
    return Judged({"auc": [one.auc for one in found]}, {"": [one.values for one in found]})
