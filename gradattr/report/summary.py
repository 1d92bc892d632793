"""A run on one screen."""

from __future__ import annotations

from typing import Any

from gradattr.report.audit_summary import summarise_jobs
from gradattr.report.evaluation_summary import summarise_evaluation
from gradattr.report.label_notes import label_notes
from gradattr.report.patching_summary import summarise_patching
from gradattr.report.precision_notes import precision_notes
from gradattr.report.summarised import Summarised
from gradattr.report.training_summary import summarise_training

_METHODS = """
SELECT method,
       count(*) AS rows,
       count(*) FILTER (status <> 'ok') AS bad,
       avg(abs_total) AS mean_abs,
       avg(total) AS mean_total,
       median(completeness_gap_relative) AS median_gap,
       max(evaluations) AS evaluations
FROM attributions GROUP BY method
"""

_PREDICTIONS = """
SELECT avg(CAST(correct AS DOUBLE)) AS accuracy, count(*) FILTER (status <> 'ok') AS bad
FROM predictions
"""

_TRAINING = """
SELECT model, max(epoch) AS epochs, arg_max(loss, epoch) AS loss,
       arg_max(accuracy, epoch) AS accuracy, arg_max(test_accuracy, epoch) AS test_accuracy,
       arg_max(robust_test_accuracy, epoch) AS robust_test_accuracy
FROM training GROUP BY model ORDER BY model DESC
"""

_TRIALS = """
SELECT variant, count(*) AS trials, sum(epochs) AS epochs, min(accuracy) AS lowest,
       max(accuracy) AS highest
FROM trials GROUP BY variant ORDER BY min("row")
"""


def summarise(run: Summarised) -> dict[str, Any]:
    """JSON of what ``gradattr show`` prints: rows, bytes, accuracy, a line per method, training; of
    an audit its trials, and the scores of every scheme and level; of kind tfa its pairs and how its
    maps are judged; of kind patching its baselines and how faithful the estimates are; of kind
    evaluate every metric's methods by rank; of kind audit a line per job."""
    summary: dict[str, Any] = {
        "run_id": run.run_id,
        "uri": run.uri,
        "kind": run.manifest["kind"],
        "rows": run.rows,
        "bytes": run.commit.bytes,
        "accuracy": None,
        "methods": [],
        "training": [],
        "trials": [],
        "diffroar": [],
        "pred_power": [],
        "tfa": summarise_training(run),
        "patching": summarise_patching(run),
        "evaluation": summarise_evaluation(run),
        "jobs": summarise_jobs(run, summarise),
        "class_names": run.inputs.get("class_names"),
        "errors": {},
        "notes": [],
    }
    if "predictions" in run.tables:
        summary["accuracy"] = run.sql(_PREDICTIONS).to_pylist()[0]["accuracy"]
    if "attributions" in run.tables:
        found = {row["method"]: row for row in run.sql(_METHODS).to_pylist()}
        summary["methods"] = [found[method] for method in run.methods if method in found]
    if "training" in run.tables:
        summary["training"] = run.sql(_TRAINING).to_pylist()
    if "diffroar" in run.tables:
        summary["trials"] = run.sql(_TRIALS).to_pylist()
        # Not by SQL, which need not keep the order of the manifest.
        summary["diffroar"] = run.table("diffroar").to_pylist()
        summary["pred_power"] = run.table("pred_power").to_pylist()
    if "errors" in run.tables:
        counted = run.sql(
            "SELECT status, count(*) AS n FROM errors GROUP BY status ORDER BY n DESC"
        )
        summary["errors"] = {row["status"]: row["n"] for row in counted.to_pylist()}
    summary["notes"] = _notes(run, summary)
    return summary


def _notes(run: Summarised, summary: dict[str, Any]) -> list[str]:
    notes = []
    if summary["errors"]:
        kinds = ", ".join(f"{count} {status}" for status, count in summary["errors"].items())
        notes.append(f"Failures: {kinds} (table 'errors')")
    notes.extend(_agreement_notes(run))
    notes.extend(precision_notes(run))
    notes.extend(label_notes(summary["training"]))
    return notes


def _agreement_notes(run: Summarised) -> list[str]:
    """What 'mixed' precision changed, measured on a sample of every shard: nobody need trust it."""
    worst: dict[str, float] = {}
    for record in run.commit.records:
        for method, found in record.extra.get("agreement", {}).items():
            value = found["spearman_median"]
            worst[method] = min(worst.get(method, 1.0), value)
    if not worst:
        return []
    method, value = min(worst.items(), key=lambda item: item[1])
    return [
        f"Precision mixed against fp32, on a sample of each shard: Spearman of |map| at least "
        f"{value:.4f} (worst shard's median, method {method})"
    ]
