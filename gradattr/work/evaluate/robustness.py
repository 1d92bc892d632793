"""Metrics that make maps again: of images changed a little, in other numbers of steps, by other
models. The methods of a subject make theirs together, so that they share their passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.result import Attribution
from gradattr.manifest.robustness_metrics import (
    AttackMetric,
    LabelRandomisationMetric,
    RandomisationMetric,
    SensitivityMetric,
    StabilityMetric,
)
from gradattr.metrics.attack import attack_maps
from gradattr.metrics.attack_settings import AttackSettings
from gradattr.metrics.map_change import MapChange
from gradattr.metrics.randomisation import other_model, randomisation
from gradattr.metrics.sensitivity import sensitivity
from gradattr.metrics.stability import riemann_stability
from gradattr.work.evaluate.label_model import label_evaluator
from gradattr.work.evaluate.subject import Judged, Subject
from gradattr.work.modules import prepare_model

#: Measures of how alike the maps of two models are: fields of ``MapChange``.
LIKENESS = ("spearman", "spearman_magnitude", "ssim", "top_intersection")

#: Model evaluations from which on a model is made fast before it is asked: on a CPU that took as
#: long as 200 evaluations of a ResNet-20 or ResNet-18 were quicker by.
TUNING_PAYS = 200


class _Again(NamedTuple):
    """What every function that makes maps again is given, by position and by name."""

    images: tuple[Any, ...]
    settings: dict[str, Any]


def judge_attack(metric: AttackMetric, subject: Subject) -> Judged:
    """Both figures of the attacked maps, and how many tried images lost their class."""
    again = _again(subject)
    settings = AttackSettings(
        kind=metric.kind,
        eps=metric.eps,
        objective=metric.objective,
        candidates=metric.candidates,
        steps=metric.steps,
        top=metric.top,
    )
    found = attack_maps(*again.images, settings=settings, **again.settings, at_x=_known(subject))
    return _measures(found, ("spearman", "top_intersection", "rejected"))


def judge_sensitivity(metric: SensitivityMetric, subject: Subject) -> Judged:
    """Largest and mean relative change, and the largest change per distance."""
    again = _again(subject)
    found = sensitivity(
        *again.images,
        radius=metric.radius,
        norm=metric.norm,
        samples=metric.samples,
        **again.settings,
        at_x=_known(subject),
    )
    return Judged(
        {
            "max": [one.max_sensitivity for one in found],
            "mean": [one.mean_sensitivity for one in found],
            "lipschitz": [one.local_lipschitz for one in found],
        },
        {},
    )


def judge_stability(metric: StabilityMetric, subject: Subject) -> Judged:
    """The maps in few steps against those in the most."""
    again = _again(subject)
    found = riemann_stability(*again.images, steps=metric.steps, top=metric.top, **again.settings)
    values: dict[str, list[Tensor]] = {}
    for place, count in enumerate(metric.steps[:-1]):
        for name in ("spearman", "top_intersection", "l2"):
            values[f"{count}_{name}"] = [getattr(one.change, name)[:, place] for one in found]
    return Judged(values, {})


def judge_randomisation(metric: RandomisationMetric, subject: Subject) -> Judged:
    """How like the maps stay as one module after the other becomes random; the measures are those
    after the last one."""
    manifest, again = subject.context.evaluate_manifest, _again(subject)
    found = randomisation(
        *again.images,
        seed=manifest.seed,
        order=metric.order,
        modules=metric.modules,
        tune=_quickener(subject),
        top=metric.top,
        **again.settings,
        at_x=_known(subject),
    )
    curves = {name: [getattr(one.change, name) for one in found] for name in LIKENESS}
    values = {name: [curve[:, -1] for curve in lines] for name, lines in curves.items()}
    return Judged(values, curves, dict.fromkeys(LIKENESS, found[0].stages))


def judge_label_randomisation(metric: LabelRandomisationMetric, subject: Subject) -> Judged:
    """How like the maps are to those of the model that has learned permuted labels."""
    again = _again(subject)
    evaluator, *images = again.images
    found: list[MapChange] = other_model(
        evaluator,
        label_evaluator(subject.context, subject.loaded, metric),
        *images,
        top=metric.top,
        **again.settings,
        at_x=_known(subject),
    )
    return _measures(found, LIKENESS)


def _quickener(subject: Subject) -> Callable[[nn.Module], Evaluator]:
    """How a model that makes the subject's maps once is prepared for it, with the precision of the
    explained model: what differs is what was learned."""
    context, device = subject.context, subject.loaded.device
    spec, engine = context.evaluate_manifest.model, context.evaluate_manifest.engine
    each = sum(r.evaluations(context.num_classes, context.shape) for r in subject.requests)
    if len(subject.rows) * each < TUNING_PAYS and engine.precision == "fp32":
        return lambda network: PlainEvaluator(network.to(device))
    return lambda network: prepare_model(context, network, spec, device)[0]


def _again(subject: Subject) -> _Again:
    loaded = subject.loaded
    return _Again(
        (loaded.evaluator, subject.x, subject.requests),
        {
            "seeds": subject.seeds,
            "labels": subject.known_labels,
            "normalization": loaded.normalization,
            "batch_size": loaded.batch_size,
        },
    )


def _known(subject: Subject) -> Sequence[Attribution] | None:
    """The maps of the images, where they were made here. Those that another run keeps are rounded
    to what it stores: they are made again, so that nothing else differs."""
    return subject.results if subject.context.evaluate_manifest.attributions is None else None


def _measures(found: Sequence[Any], names: Sequence[str]) -> Judged:
    return Judged({name: [getattr(one, name) for one in found] for name in names}, {})
