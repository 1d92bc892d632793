"""``metrics:`` of ``kind: evaluate`` -- how maps are judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Field

from gradattr.manifest.faithfulness_metrics import FaithfulnessMetric
from gradattr.manifest.metric_base import Measure, MetricBase, named
from gradattr.manifest.robustness_metrics import RobustnessMetric


class PathMetric(MetricBase):
    """Path monotonicity (UNI): Spearman's correlation of the place on the path from the baseline
    to the image with the confidence there. Of methods that walk one path."""

    metric: Literal["path_monotonicity"]

    def measures(self) -> tuple[Measure, ...]:
        return (Measure("", True, "-1 to 1; 1 where confidence only grows"),)


class BaselineMetric(MetricBase):
    """Where a path begins: how far confidence falls there, and how far away it is."""

    cost: ClassVar[str] = "nothing beyond the map; a baseline that is searched for, once more"

    metric: Literal["baseline"]

    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("confidence_drop", True, "confidence at the image - at the baseline, -1 to 1"),
            Measure("falls", True, "1 where confidence is lower at the baseline, else 0"),
            Measure("l2", None, "distance from the image, relative to the image's own norm"),
            Measure("linf", None, "largest change of a value, in pixels of 0 to 1"),
            Measure("ssim", None, "structural similarity of image and baseline, -1 to 1"),
        )


class CompletenessMetric(MetricBase):
    """How far the map is from adding up to score - baseline's score, of methods that claim it."""

    metric: Literal["completeness"]

    def measures(self) -> tuple[Measure, ...]:
        return (Measure("gap", False, "|gap| / |score - baseline's score|, 0 or more"),)


class LocalisationMetric(MetricBase):
    """How well the map finds the region that the image's mask marks."""

    metric: Literal["localisation"]
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """Pixels from the region at which the pointing game counts a hit (Zhang et al. take 15)."""
    better: Literal["inside", "outside"] | None = None
    """Whether the region is what a map should find (an object), or should not (a shortcut, a block
    without signal). Default: neither, and methods are not ranked by it."""

    def measures(self) -> tuple[Measure, ...]:
        up = None if self.better is None else self.better == "inside"
        return (
            Measure("pointing", up, "pointing game: whether the highest pixel is inside, 0 or 1"),
            Measure("mass", up, "share of the sum of |map| that is inside, 0 to 1"),
            Measure("rank", up, "share of the K highest pixels inside, of a region of K pixels"),
            Measure("auc", up, "probability that a pixel inside is higher than one outside"),
        )


class ComplexityMetric(MetricBase):
    """How few pixels carry the map: how short an explanation is, not whether it is true."""

    metric: Literal["complexity"]
    threshold: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """Share of the largest |value| above which a pixel counts, for 'effective'."""

    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("sparseness", None, "Gini index, 0 (all equal) to 1 (one pixel)"),
            Measure("entropy", None, "in nats, 0 (one pixel) to ln of their number"),
            Measure("effective", None, "number of pixels above the threshold"),
        )


class AgreementMetric(MetricBase):
    """How alike the methods' maps of an image are, every one against every other. Agreement is no
    evidence that any of them is right."""

    metric: Literal["agreement"]
    top: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the pixels that count as highest."""


class CostMetric(MetricBase):
    """What a map costs."""

    metric: Literal["cost"]

    def measures(self) -> tuple[Measure, ...]:
        text = "model evaluations (forward, or forward and backward) per image, run alone"
        return (Measure("evaluations", False, text),)


AnyMetric = Annotated[
    FaithfulnessMetric
    | PathMetric
    | BaselineMetric
    | CompletenessMetric
    | RobustnessMetric
    | LocalisationMetric
    | ComplexityMetric
    | AgreementMetric
    | CostMetric,
    Field(discriminator="metric"),
]


_MODELS: tuple[type[MetricBase], ...] = get_args(get_args(AnyMetric)[0])


def _expand_metric(value: Any) -> Any:
    """``deletion`` is short for ``{metric: deletion}``."""
    return {"metric": value} if isinstance(value, str) else value


MetricSpec = Annotated[AnyMetric, BeforeValidator(_expand_metric)]


class NamedMeasure(NamedTuple):
    """A number of the table 'scores'."""

    name: str
    """The value of the column 'metric'."""
    higher_is_better: bool | None
    text: str


class NamedCurve(NamedTuple):
    """A curve of the table 'sample_curves'."""

    name: str
    """The value of the column 'curve'."""
    x: tuple[float, ...] | None


def metric_models() -> dict[str, type[MetricBase]]:
    """Every metric's model by its name, in the order of the manual."""
    return {get_args(model.model_fields["metric"].annotation)[0]: model for model in _MODELS}


def metric_id(metric: AnyMetric) -> str:
    """What its names in the tables begin with."""
    return metric.id or metric.metric


def measures_of(metric: AnyMetric) -> list[NamedMeasure]:
    """The metric's numbers under their names in the tables."""
    label = metric_id(metric)
    return [NamedMeasure(named(label, one.name), *one[1:]) for one in metric.measures()]


def curves_of(metric: AnyMetric) -> list[NamedCurve]:
    """The metric's curves under their names in the tables."""
    return [NamedCurve(named(metric_id(metric), one.name), one.x) for one in metric.curves()]


def check_unique_metrics(metrics: Sequence[AnyMetric]) -> None:
    """Raise ValueError if two metrics would have the same names in the tables."""
    names = [name for metric in metrics for name in _names(metric)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"metrics: {', '.join(twice)} stands there more than once; give each an 'id' of its own"
        )


def _names(metric: AnyMetric) -> set[str]:
    """Names that the metric takes in the tables, and its id."""
    found = {one.name for one in measures_of(metric)} | {one.name for one in curves_of(metric)}
    return found | {metric_id(metric)}
