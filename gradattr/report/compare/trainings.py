"""How the trainings of two runs ended."""

from __future__ import annotations

import math
from typing import Any

from gradattr.metrics.run_differences import RunDifference
from gradattr.report.compare.sections import Section, difference_rows, has_rows, only_in_one
from gradattr.report.results import Run

_MEASURES = ("loss", "accuracy", "test_loss", "test_accuracy", "robust_test_accuracy")


def compare_trainings(a: Run, b: Run) -> list[Section]:
    """After the last epoch: one training each, so that there is no interval."""
    if not (has_rows(a, "training") and has_rows(b, "training")):
        return []
    ends = [_last_epochs(run) for run in (a, b)]
    nan = math.nan
    found = {
        (model, measure): RunDifference(1, x, y, y - x, nan, nan, nan, nan)
        for model in ends[0]
        if model in ends[1]
        for measure in _MEASURES
        if (x := ends[0][model][measure]) is not None and (y := ends[1][model][measure]) is not None
    }
    notes = only_in_one("models", list(ends[0]), list(ends[1]))
    names = ("model", "measure")
    title = "Training, after the last epoch"
    return [Section(title, "differences", names, difference_rows(names, found), notes)]


def _last_epochs(run: Run) -> dict[str, dict[str, Any]]:
    rows = sorted(run.table("training").to_pylist(), key=lambda row: row["epoch"])
    return {row["model"]: row for row in rows}
