"""An audit on one screen: a line for each job, with the numbers that matter most of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from gradattr.report.summarised import Summarised

Summary = dict[str, Any]


def summarise_jobs(
    run: Summarised, summarise: Callable[[Summarised], Summary]
) -> list[dict[str, Any]]:
    """A row per job of an audit, in its order: what the table ``jobs`` says of it, and its
    ``headlines``; none of another kind of run. ``summarise``: what sums up one run."""
    if not run.jobs:
        return []
    rows = {row["job"]: row for row in run.table("jobs").to_pylist()}
    return [rows[name] | {"headlines": headlines(summarise(run.job(name)))} for name in run.jobs]


def headlines(summary: Summary) -> list[str]:
    """What a run of any kind has found, in a few lines."""
    found = [
        *_of_trainings(summary),
        *_of_maps(summary),
        *_of_scores(summary["diffroar"]),
        *_of_metrics(summary["evaluation"]),
        *_of_training_images(summary["tfa"]),
        *_of_patching(summary["patching"]),
    ]
    if summary["accuracy"] is not None:
        found.insert(0, f"accuracy {summary['accuracy']:.2%}")
    if summary["errors"]:
        kinds = ", ".join(f"{count} {status}" for status, count in summary["errors"].items())
        found.append(f"failures: {kinds}")
    return found


def _of_trainings(summary: Summary) -> list[str]:
    """Of kind train alone; other kinds tell of what the model is for."""
    if summary["kind"] != "train":
        return []
    found = []
    for row in summary["training"]:
        tested = row["test_accuracy"] is not None
        accuracy = row["test_accuracy"] if tested else row["accuracy"]
        on = "test" if tested else "training"
        shown = "" if accuracy is None else f", {on} accuracy {accuracy:.2%}"
        found.append(f"{row['model']}: {row['epochs']} epochs{shown}")
    return found


def _of_maps(summary: Summary) -> list[str]:
    if summary["kind"] != "attribute":
        return []
    methods = summary["methods"]
    gaps = [(m["median_gap"], m["method"]) for m in methods if m["median_gap"] is not None]
    found = [f"{len(methods)} method{'s' if len(methods) != 1 else ''}"]
    if gaps:
        gap, method = max(gaps)
        found.append(f"largest median gap {gap:.2%} ({method})")
    return found


def _of_scores(rows: list[Summary]) -> list[str]:
    """DiffROAR: how often each order was found to hold, and the score at its first level."""
    found = []
    judged = [row for row in rows if row["verdict"] not in ("floor", "control")]
    for scheme, learner in dict.fromkeys((row["scheme"], row["learner"]) for row in judged):
        own = [row for row in judged if (row["scheme"], row["learner"]) == (scheme, learner)]
        counts = Counter(row["verdict"] for row in own)
        words = [
            f"{word} at {counts[word]}"
            for word in ("satisfies", "violates", "undecided")
            if counts[word]
        ]
        by = f" ({learner})" if len({row["learner"] for row in judged}) > 1 else ""
        levels = f"of {len(own)} level{'s' if len(own) != 1 else ''}"
        largest = max(own, key=lambda row: abs(row["diffroar"]))
        found.append(
            f"{scheme}{by}: {', '.join(words)} {levels}; largest DiffROAR "
            f"{largest['diffroar']:+.4f} at {100 * largest['level']:g} %"
        )
    return found


def _of_metrics(evaluation: Summary | None) -> list[str]:
    """Kind evaluate: the best method of each metric that has a direction."""
    found = []
    for metric in evaluation["metrics"] if evaluation else ():
        best = next((row for row in metric["methods"] if row["rank"] == 1), None)
        if best is None or best["mean"] is None:
            continue
        low, high = best["low"], best["high"]
        interval = "" if low is None else f" [{low:.3g}, {high:.3g}]"
        tied = f", not told apart from {len(best['tied_with'])}" if best["tied_with"] else ""
        found.append(
            f"{metric['metric']}: best {best['method']} {best['mean']:.4g}{interval}{tied}"
        )
    return found


def _of_training_images(tfa: Summary | None) -> list[str]:
    if not tfa:
        return []
    found = [", ".join(f"{tfa[what]} {what}" for what in ("queries", "pairs", "maps"))]
    for row in tfa["judged"]:
        if row["marked_share"] is not None:
            found.append(
                f"{row['method']}, {row['side']}, {row['map_method']}: {row['marked_share']:.1%} "
                f"of the top pixels in the marked region ({row['marked_area']:.1%} of the image)"
            )
    return found


def _of_patching(patching: Summary | None) -> list[str]:
    if not patching:
        return []
    found = []
    for row in patching["faithfulness"]:
        if row["measure"] == "spearman":
            found.append(
                f"{row['baseline']}, {row['method']}: Spearman {row['mean']:.3f} with the exact "
                "effects"
            )
    return found or [f"{len(patching['baselines'])} baselines"]
