"""What bfloat16 changed about scores: measured on a sample, so that nobody need trust it."""

from __future__ import annotations

from gradattr.report.summarised import Summarised

#: How far a score may move before a person is told: areas under curves, and correlations.
AREA, CORRELATION = 0.01, 0.02


def precision_notes(run: Summarised) -> list[str]:
    """The largest change of every metric that was computed in bf16, over all shards."""
    largest: dict[str, float] = {}
    for record in run.commit.records:
        for metric, found in record.extra.get("precision_change", {}).items():
            largest[metric] = max(largest.get(metric, 0.0), found["largest"])
    if not largest:
        return []
    changes = ", ".join(f"{metric} {value:.2g}" for metric, value in largest.items())
    note = (
        "Precision bf16 against fp32, on a sample of each shard, the largest change of a score: "
        f"{changes}"
    )
    much = [metric for metric, value in largest.items() if value > _limit(metric)]
    if much:
        note += (
            f". More than an AUC ({AREA:g}) or a correlation ({CORRELATION:g}) should move: "
            f"{', '.join(much)}; use precision fp32 where single images count"
        )
    return [note]


def _limit(metric: str) -> float:
    if metric.endswith("_auc"):
        return AREA
    correlation = "spearman" in metric or "pearson" in metric
    return CORRELATION if correlation else float("inf")
