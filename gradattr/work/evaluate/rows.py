"""Rows of the tables 'scores', 'sample_curves' and 'sample_agreement'."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradattr.manifest.metric_base import named
from gradattr.manifest.metrics import AnyMetric, metric_id
from gradattr.metrics.method_agreement import MethodAgreement
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.evaluate.subject import Judged, Subject


class ScoreRows:
    """Hands the scores of one shard to its writer."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self.undefined: dict[str, int] = {}
        """How many maps have no value, by metric."""

    def add(self, metric: AnyMetric, subject: Subject, judged: Judged) -> None:
        """A row for each image, method and measure; and for each curve."""
        for measure, per_method in judged.values.items():
            name = named(metric_id(metric), measure)
            for result, values in zip(subject.results, per_method, strict=True):
                self._scores(name, result.method, subject, values, result.status)
        for curve, per_curve in judged.curves.items():
            name = named(metric_id(metric), curve)
            for result, lines in zip(subject.results, per_curve, strict=True):
                self._curves(name, result.method, subject, lines, result.status)

    def add_missing(
        self, names: Iterable[str], method: str, rows: Sequence[tuple[int, str, str]]
    ) -> None:
        """Rows without a value, for (row, sample id, status) of images that have no map."""
        for name in names:
            columns = {
                "row": [row for row, _, _ in rows],
                "sample_id": [sample for _, sample, _ in rows],
                "method": [method] * len(rows),
                "metric": [name] * len(rows),
                "status": [status for _, _, status in rows],
            }
            self._writer.append("scores", make_table("scores", columns))

    def add_agreement(
        self,
        rows: Sequence[int],
        sample_ids: Sequence[str],
        methods: Sequence[str],
        found: MethodAgreement,
    ) -> None:
        """A row for each image and pair of methods, the pair in alphabetical order."""
        order = sorted(range(len(methods)), key=lambda number: methods[number])
        for first, second in itertools.combinations(order, 2):
            n = len(rows)
            columns = {
                "row": list(rows),
                "sample_id": list(sample_ids),
                "first": [methods[first]] * n,
                "second": [methods[second]] * n,
                "spearman": _numbers(found.values[:, first, second]),
                "spearman_magnitude": _numbers(found.magnitudes[:, first, second]),
                "top_overlap": _numbers(found.top_overlap[:, first, second]),
            }
            self._writer.append("sample_agreement", make_table("sample_agreement", columns))

    def _scores(
        self, name: str, method: str, subject: Subject, values: Tensor, status: Sequence[str]
    ) -> None:
        numbers = _numbers(values)
        statuses = [
            found if found != "ok" or value is not None else "undefined"
            for found, value in zip(status, numbers, strict=True)
        ]
        self.undefined[name] = self.undefined.get(name, 0) + statuses.count("undefined")
        columns = _head(method, subject) | {
            "metric": [name] * len(numbers),
            "value": [v if s == "ok" else None for v, s in zip(numbers, statuses, strict=True)],
            "status": statuses,
        }
        self._writer.append("scores", make_table("scores", columns))

    def _curves(
        self, name: str, method: str, subject: Subject, lines: Tensor, status: Sequence[str]
    ) -> None:
        columns = _head(method, subject) | {
            "curve": [name] * len(lines),
            "values": [
                _numbers(line) if found == "ok" else None
                for line, found in zip(lines, status, strict=True)
            ],
        }
        self._writer.append("sample_curves", make_table("sample_curves", columns))


def _head(method: str, subject: Subject) -> dict[str, Any]:
    return {
        "row": list(subject.rows),
        "sample_id": list(subject.sample_ids),
        "method": [method] * len(subject.rows),
    }


def _numbers(values: Tensor) -> list[float | None]:
    found: list[float] = values.detach().to("cpu", torch.float64).tolist()
    return [value if math.isfinite(value) else None for value in found]
