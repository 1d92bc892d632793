"""``checks:`` -- what numbers of a committed run must be. No part of what is computed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gradattr.manifest.check_base import (
    BETTER,
    DEMANDS,
    CheckBase,
    IntervalCheck,
    RowCheck,
    SampledCheck,
    SummarisedCheck,
)

Level = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Side = Literal["helpful", "harmful"]


class SummaryCheck(SummarisedCheck):
    """Kind evaluate: a metric's mean for a method."""

    check: Literal["summary"]
    metric: Name
    """As in the table's column 'metric', such as 'deletion_auc'."""
    method: Name
    """The method's id."""
    statistic: Literal["mean", "low", "high", "rank", "mean_rank"] = "mean"
    """The mean; an end of its 95 % interval ('low' with at_least, 'high' with at_most ask that
    the whole interval keeps the bound); the method's rank, 1 the best, or its mean over images."""
    better_than: Name | None = None
    """Id of another method: the difference of the two means, over the same images, must be on the
    better side, with a corrected p below 0.05 (table 'differences')."""

    demands: ClassVar[tuple[str, ...]] = (*DEMANDS, "better_than")
    chosen_by: ClassVar[tuple[str, ...]] = ("metric", "method")
    table_knows_better: ClassVar[bool] = True

    @property
    def number(self) -> tuple[str, str, str]:
        return self.metric, self.method, self.statistic

    @property
    def known_better(self) -> bool | None:
        return False if self.statistic in ("rank", "mean_rank") else None

    @model_validator(mode="after")
    def _two_methods(self) -> SummaryCheck:
        if self.better_than == self.method:
            raise ValueError("better_than: it is the method itself; name another one")
        return self


class DiffRoarCheck(IntervalCheck):
    """Kind diffroar: the score of a scheme at a level."""

    check: Literal["diffroar"]
    scheme: Name
    """'<base model>/<method>', or a baseline: 'random', 'linear'."""
    level: Level
    learner: Name | None = None
    """Base model whose architecture and recipe are retrained. Default: the only one."""
    variant: Literal["retrain", "mask_only", "no_retrain"] | None = None
    """Default: 'retrain', or 'no_retrain' where the manifest says retrain: false."""

    mean_column: ClassVar[str] = "diffroar"
    chosen_by: ClassVar[tuple[str, ...]] = ("scheme", "level", "learner", "variant")

    @property
    def number(self) -> tuple[str, str, str]:
        return "diffroar", self.whom, self.statistic

    @property
    def known_better(self) -> bool | None:
        return True


class StepTestCheck(IntervalCheck):
    """Kind tfa: the insertion or deletion test of maps; its mean difference top - random."""

    check: Literal["tfa_summary"]
    method: Name
    """The score's id."""
    map_method: Name
    """The map's id."""
    level: Level
    side: Side = "helpful"
    test: Literal["insertion", "deletion"] = "insertion"
    steps: Annotated[int, Field(gt=0)] = 1

    mean_column: ClassVar[str] = "difference"
    chosen_by: ClassVar[tuple[str, ...]] = (
        "method", "side", "map_method", "test", "steps", "level"
    )  # fmt: skip

    @property
    def number(self) -> tuple[str, str, str]:
        return "difference", self.whom, self.statistic


class FaithfulnessCheck(IntervalCheck):
    """Kind patching: how far an estimate is from the exact effects."""

    check: Literal["faithfulness"]
    baseline: Name
    """The baseline's id."""
    method: Literal["attribution_patching", "integrated_patching"] = "attribution_patching"
    measure: Literal["l2", "relative_l2", "spearman"]

    chosen_by: ClassVar[tuple[str, ...]] = ("baseline", "method", "measure")

    @property
    def number(self) -> tuple[str, str, str]:
        return self.measure, f"{self.method}, {self.baseline}", self.statistic

    @property
    def known_better(self) -> bool | None:
        return BETTER[self.measure]


class PredictionsCheck(SampledCheck):
    """What the model says of the data."""

    check: Literal["predictions"]
    measure: Literal["accuracy", "confidence", "loss", "not_ok"] = "accuracy"
    """'not_ok': 1 for a row whose status is not 'ok', else 0, so that its mean is their share."""


class AttributionsCheck(SampledCheck):
    """Numbers of a method's maps."""

    check: Literal["attributions"]
    method: Name
    """The method's id."""
    measure: Literal[
        "completeness_gap_relative",
        "completeness_gap",
        "total",
        "abs_total",
        "baseline_confidence",
        "path_spearman",
        "evaluations",
        "not_ok",
    ]
    """A column of the table; 'not_ok': 1 for a row whose status is not 'ok', else 0."""

    chosen_by: ClassVar[tuple[str, ...]] = ("method",)


class LeakageCheck(SampledCheck):
    """Data with masks: how much of a method's maps lies in the marked region."""

    check: Literal["leakage"]
    method: Name
    """The method's id."""
    level: Level
    measure: Literal["share", "mass_ratio"] = "share"

    chosen_by: ClassVar[tuple[str, ...]] = ("method", "level")


class MapScoresCheck(SampledCheck):
    """Kind tfa: how maps of training images are judged."""

    check: Literal["tfa_map_scores"]
    method: Name
    """The score's id."""
    map_method: Name
    """The map's id."""
    side: Side = "helpful"
    measure: Literal["marked_share", "mass_ratio", "top_overlap", "abs_total", "not_ok"]
    """A column of the table; 'not_ok': 1 for a row whose status is not 'ok', else 0."""

    chosen_by: ClassVar[tuple[str, ...]] = ("method", "side", "map_method")


class RecallCheck(SampledCheck):
    """Kind tfa: what the index finds of the exact answer."""

    check: Literal["index_recall"]
    method: Name
    """The score's id."""
    side: Side = "helpful"
    measure: Literal["recall", "ranked_recall"] = "recall"

    chosen_by: ClassVar[tuple[str, ...]] = ("method", "side")


class TrainingCheck(RowCheck):
    """How a training ended: after its last epoch."""

    check: Literal["training"]
    model: Name = "model"
    """As in the table's column 'model': 'model', or a base model's name."""
    measure: Literal["loss", "accuracy", "test_loss", "test_accuracy", "robust_test_accuracy"]

    has_interval: ClassVar[bool] = False
    chosen_by: ClassVar[tuple[str, ...]] = ("model",)

    @property
    def number(self) -> tuple[str, str, str]:
        return self.measure, self.model, "last epoch"

    @property
    def known_better(self) -> bool | None:
        return BETTER[self.measure]


class SqlCheck(CheckBase):
    """Any other number: what a SELECT over the run's tables answers."""

    check: Literal["sql"]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    """What the number is called."""
    sql: Annotated[str, Field(min_length=1, max_length=10_000)]
    """One SELECT whose answer is one row of one number."""

    has_interval: ClassVar[bool] = False

    @property
    def table(self) -> str | None:
        return None

    @property
    def number(self) -> tuple[str, str, str]:
        return self.name, "", ""


CheckSpec = Annotated[
    SummaryCheck
    | DiffRoarCheck
    | StepTestCheck
    | MapScoresCheck
    | RecallCheck
    | FaithfulnessCheck
    | PredictionsCheck
    | AttributionsCheck
    | LeakageCheck
    | TrainingCheck
    | SqlCheck,
    Field(discriminator="check"),
]
