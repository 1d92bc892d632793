"""Metrics that make maps again: of images changed a little, in more steps, of other models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gradattr.manifest.metric_base import Above, Curve, Measure, MetricBase, Positive
from gradattr.manifest.model import TrainSpec

#: Beginning of the roles of models that are trained on permuted labels, before the metric's id.
LABELS = "labels:"


class AttackMetric(MetricBase):
    """Attribution robustness (Ghorbani et al. 2019): the image within the linf ball that keeps its
    predicted class and changes the map most, as far as a search finds it; both maps compared. The
    two kinds of search are not equally strong: compare methods by one of them only."""

    cost: ClassVar[str] = (
        "candidates + steps maps per method; of kind gradient 2 or 3 evaluations more per step"
    )

    metric: Literal["attack"]
    kind: Literal["random_sign", "gradient"] = "random_sign"
    """How the search goes on from the best random corner: by random changes, for any method; or
    along the derivative of the map's change, for gradient, saliency and input_x_gradient."""
    eps: Above = 8 / 255
    """Radius of the linf ball, in pixels of 0 to 1."""
    objective: Literal["spearman", "top_k", "cosine"] = "spearman"
    """What is brought down."""
    candidates: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Random corners that are tried first, the same for all methods."""
    steps: Annotated[int, Field(ge=0, le=10_000)] = 20
    """Steps of the search from there."""
    top: Positive | None = None
    """Top pixels that are compared. Default: 1000, or 10 % of the pixels where that is fewer."""

    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("spearman", True, "rank correlation of the two maps, -1 to 1"),
            Measure("top_intersection", True, "share of the top pixels that both have, 0 to 1"),
            Measure("rejected", None, "share of tried images whose class changed, 0 to 1"),
        )

    @model_validator(mode="after")
    def _some(self) -> AttackMetric:
        if self.candidates + self.steps == 0:
            raise ValueError("candidates and steps are both 0: nothing would be tried")
        return self


class SensitivityMetric(MetricBase):
    """Max-sensitivity (Yeh et al. 2019) and the local Lipschitz estimate (Alvarez-Melis, Jaakkola
    2018): how far the map moves when the image hardly moves, at random."""

    cost: ClassVar[str] = "samples maps per method"

    metric: Literal["sensitivity"]
    radius: Above = 0.02
    """Of the ball of perturbations, in pixels of 0 to 1."""
    norm: Literal["linf", "l2"] = "linf"
    """How the ball is measured: every value on its own, or all of them together (Euclidean)."""
    samples: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Perturbations per image. The measures are maxima: comparable at equal numbers only."""

    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("max", False, "largest relative change of the map, 0 or more"),
            Measure("mean", False, "mean relative change, 0 or more"),
            Measure("lipschitz", False, "largest change of the map per distance, in its units"),
        )


class StabilityMetric(MetricBase):
    """Riemann stability: the map in few steps against that in many, of methods that walk a path."""

    cost: ClassVar[str] = "a map per method for each number of steps"

    metric: Literal["stability"]
    steps: list[Positive] = Field(default=[1, 15, 30], min_length=2, max_length=20)
    """Numbers of steps, ascending; the last is the reference."""
    top: Positive | None = None
    """Top pixels that are compared. Default: 1000, or 10 % of the pixels where that is fewer."""

    def measures(self) -> tuple[Measure, ...]:
        found = []
        for count in self.steps[:-1]:
            found += [
                Measure(f"{count}_spearman", True, f"rank correlation at {count} steps, -1 to 1"),
                Measure(f"{count}_top_intersection", True, "share of top pixels kept, 0 to 1"),
                Measure(f"{count}_l2", False, "relative distance of the maps, 0 or more"),
            ]
        return tuple(found)

    @model_validator(mode="after")
    def _ascending(self) -> StabilityMetric:
        if self.steps != sorted(set(self.steps)):
            raise ValueError("steps: give them in ascending order, each once")
        return self


class RandomisationMetric(MetricBase):
    """Sanity check (Adebayo et al. 2018): the model's weights are made random, from the output
    down, and the maps compared. Where they stay alike, they do not show what it has learned."""

    cost: ClassVar[str] = "a map per method for each module"

    metric: Literal["randomisation"]
    order: Literal["cascading", "independent"] = "cascading"
    """One module after the other, those above staying random; or one module at a time."""
    modules: list[str] | None = Field(default=None, min_length=1)
    """Names of the modules, in order. Default: all that hold parameters, the output first."""
    top: Positive | None = None
    """Top pixels that are compared. Default: 1000, or 10 % of the pixels where that is fewer."""

    def measures(self) -> tuple[Measure, ...]:
        return _likeness("after the last module")

    def curves(self) -> tuple[Curve, ...]:
        return tuple(Curve(measure.name, None) for measure in self.measures())


class LabelRandomisationMetric(MetricBase):
    """Sanity check (Adebayo et al. 2018): maps of the model against those of one with the same
    architecture, trained until it knows labels by heart that were permuted at random. By default
    it begins with the weights that the model began with, so that only the labels differ."""

    cost: ClassVar[str] = "a map per method; and the training of a model, once"

    metric: Literal["label_randomisation"]
    train: TrainSpec | None = None
    """How that model is trained. Default: as the manifest's model is, on permuted labels."""
    top: Positive | None = None
    """Top pixels that are compared. Default: 1000, or 10 % of the pixels where that is fewer."""

    def measures(self) -> tuple[Measure, ...]:
        return _likeness("of the model of random labels")


def _likeness(what: str) -> tuple[Measure, ...]:
    return (
        Measure("spearman", False, f"rank correlation with the map {what}, -1 to 1"),
        Measure("spearman_magnitude", False, "the same of |map|, -1 to 1"),
        Measure("ssim", False, "structural similarity, -1 to 1"),
        Measure("top_intersection", False, "share of the top pixels that both have, 0 to 1"),
    )


RobustnessMetric = (
    AttackMetric
    | SensitivityMetric
    | StabilityMetric
    | RandomisationMetric
    | LabelRandomisationMetric
)
