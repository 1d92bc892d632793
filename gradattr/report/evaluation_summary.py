"""A run of kind evaluate on one screen: every metric's methods, best first, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gradattr.manifest.metrics import MetricSpec, measures_of
from gradattr.report.summarised import Summarised

_MISSING = """
SELECT metric, method, status, count(*) AS n FROM scores
WHERE value IS NULL OR NOT isfinite(value) GROUP BY metric, method, status
"""


def summarise_evaluation(run: Summarised) -> dict[str, Any] | None:
    """Methods in the manifest's order; a part per metric, in that order, with the rows of
    ``summary`` by rank (by the manifest where there is none), what its numbers mean, and how often
    a method has none, by status; metrics that apply to no method; names of the curves; and the
    table ``agreement``. None: the run is of another kind."""
    if run.manifest["kind"] != "evaluate":
        return None
    rows = rows_of(run, "summary")
    methods = in_order(run, [row["method"] for row in rows])
    missing = _missing(run, methods)
    meanings = meanings_of(run)
    metrics = []
    for name in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == name]
        own.sort(key=lambda row: (row["rank"] is None, row["rank"], methods.index(row["method"])))
        metrics.append(
            {
                "metric": name,
                "meaning": meanings.get(name),
                "higher_is_better": own[0]["higher_is_better"],
                "images": max(row["n"] + row["missing"] for row in own),
                "methods": [{k: v for k, v in row.items() if k != "metric"} for row in own],
                "missing": [one for one in missing if one["metric"] == name],
            }
        )
    return {
        "methods": methods,
        "metrics": metrics,
        "unused": [name for name in meanings if all(row["metric"] != name for row in rows)],
        "curves": list(dict.fromkeys(row["curve"] for row in rows_of(run, "curves"))),
        "agreement": rows_of(run, "agreement"),
    }


def rows_of(run: Summarised, table: str) -> list[dict[str, Any]]:
    """A table's rows; none if the run has no such table."""
    return run.table(table).to_pylist() if table in run.tables else []


def in_order(run: Summarised, methods: Sequence[str]) -> list[str]:
    """Each once, in the manifest's order."""
    order = {method: place for place, method in enumerate(run.methods)}
    found = list(dict.fromkeys(methods))
    return sorted(found, key=lambda method: order.get(method, len(order)))


def meanings_of(run: Summarised) -> dict[str, str]:
    """Unit and range of each metric, as the manifest's metrics describe themselves."""
    try:
        metrics = TypeAdapter(list[MetricSpec]).validate_python(run.manifest["metrics"])
    except ValidationError:  # of another version of gradattr: its numbers stand for themselves
        return {}
    return {one.name: one.text for metric in metrics for one in measures_of(metric)}


def _missing(run: Summarised, methods: Sequence[str]) -> list[dict[str, Any]]:
    if "scores" not in run.tables:
        return []
    found = run.sql(_MISSING).to_pylist()
    return sorted(found, key=lambda row: (methods.index(row["method"]), row["status"]))
