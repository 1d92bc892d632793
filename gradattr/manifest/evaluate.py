"""``kind: evaluate`` -- which method's maps can be relied on, for this model and this data?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.metrics import (
    AgreementMetric,
    LocalisationMetric,
    MetricSpec,
    check_unique_metrics,
    measures_of,
    metric_id,
)
from gradattr.manifest.robustness_metrics import LabelRandomisationMetric

#: What stands for the keys that a run's attributions bring along, until that run is looked at: what
#: nobody asks for.
STAND_INS: dict[str, Any] = {
    "data": {"format": "digits", "limit": 1, "max_pixels": 64},
    "model": {"arch": "linear", "train": {"data": {"format": "digits", "limit": 1}}},
    "methods": [{"name": "gradient"}],
}


class EvaluateManifest(AttributingManifest):
    """Metrics of every method's maps over a data set: a score for each image, and for each method
    its mean with an interval, its differences from the others, and its rank."""

    kind: Literal["evaluate"]
    attributions: Annotated[str, Field(pattern=r"^(run|job):[A-Za-z0-9._-]+$")] | None = None
    """'run:<run id>': judge the maps of that run of kind attribute, in the same store; in an audit
    also 'job:<name>', those of an earlier job. Its data, model, methods, preprocess, target and
    seed hold, and need not be stated. Default: the maps are made here."""
    metrics: list[MetricSpec] = Field(min_length=1, max_length=64)
    """Metrics, by name or with parameters."""

    @model_validator(mode="before")
    @classmethod
    def _keys_of_the_run(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("attributions") is not None:
            return {**STAND_INS, **value}
        return value

    @model_validator(mode="after")
    def _judgeable(self) -> EvaluateManifest:
        check_unique_metrics(self.metrics)
        for method in self.methods:
            target = str(self.target if method.target is None else method.target)
            if target.startswith("loss"):
                raise ValueError(
                    f"methods: '{method.id or method.name}' explains the loss ('{target}'), and "
                    "metrics judge maps of a class's score; use 'logit_true' or 'logit_pred'"
                )
        for metric in self.metrics:
            label = metric_id(metric)
            if self.attributions is not None:
                continue  # what that run is about is not known here
            if isinstance(metric, AgreementMetric) and len(self.methods) < 2:
                raise ValueError(f"metrics: '{label}' compares methods; state at least two")
            if isinstance(metric, LocalisationMetric) and not self.data.has_masks:
                raise ValueError(f"metrics: '{label}' needs data with masks, and this has none")
            if (
                isinstance(metric, LabelRandomisationMetric)
                and metric.train is None
                and self.model.train is None
            ):
                raise ValueError(
                    f"metrics: '{label}' trains a model on permuted labels, and nothing says how: "
                    "give it a 'train' block, because the model itself has none"
                )
        return self

    @property
    def measures(self) -> list[str]:
        """Values of the column 'metric' of the tables, in order."""
        return [one.name for metric in self.metrics for one in measures_of(metric)]
