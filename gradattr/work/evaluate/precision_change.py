"""What bfloat16 changes about scores: measured against float32 on the first images of a shard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradattr.manifest.faithfulness_metrics import FaithfulnessMetric
from gradattr.manifest.metric_base import ForwardMetric, named
from gradattr.manifest.metrics import AnyMetric, metric_id
from gradattr.work.attribute.shard import AGREEMENT_IMAGES
from gradattr.work.evaluate.judging import judge
from gradattr.work.evaluate.subject import Judged, Subject


@dataclass
class PrecisionChange:
    """Of one metric on one shard."""

    rows: set[int] = field(default_factory=set)
    """The images compared."""
    differences: dict[str, list[Tensor]] = field(default_factory=dict)
    """|bf16 - fp32| of every map, by the metric's name in the tables."""

    def add(self, metric: FaithfulnessMetric, subject: Subject, judged: Judged) -> None:
        """Judge some of the subject's images in float32 too, until there are enough of them."""
        free = AGREEMENT_IMAGES - len(self.rows)
        self.rows |= set([row for row in subject.rows if row not in self.rows][:free])
        places = [at for at, row in enumerate(subject.rows) if row in self.rows]
        if not places:
            return
        exact = judge(metric.model_copy(update={"precision": "fp32"}), subject.at(places))
        for measure, methods in exact.values.items():
            found = self.differences.setdefault(named(metric_id(metric), measure), [])
            for fast, slow in zip(judged.values[measure], methods, strict=True):
                found.append((fast[places] - slow).abs().double().cpu())


class PrecisionChanges:
    """Of all metrics of a shard that ask for bfloat16."""

    def __init__(self) -> None:
        self._by_metric: dict[str, PrecisionChange] = {}

    def add(self, metric: AnyMetric, subject: Subject, judged: Judged) -> None:
        """What a metric has found for a subject, if that was in bfloat16."""
        if isinstance(metric, ForwardMetric) and metric.precision == "bf16":
            change = self._by_metric.setdefault(metric_id(metric), PrecisionChange())
            change.add(metric, subject, judged)

    def to_json(self) -> dict[str, Any]:
        """By name in the tables: how many images, and the largest and the mean change of a score.
        Maps without a score in one precision, or both, do not count."""
        found = {}
        for change in self._by_metric.values():
            for name, parts in change.differences.items():
                values = torch.cat(parts)
                values = values[values.isfinite()]
                if len(values):
                    found[name] = {
                        "images": len(change.rows),
                        "largest": float(values.max()),
                        "mean": float(values.mean()),
                    }
        return found
