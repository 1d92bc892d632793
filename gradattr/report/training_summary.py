"""A run of kind tfa on one screen: its strongest pairs, and how its maps are judged."""

from __future__ import annotations

from typing import Any

from gradattr.report.summarised import Summarised

_PAIRS = """
SELECT query, query_id, query_label, query_predicted, method, side, train_id, train_label,
       train_predicted, score
FROM tfa_pairs WHERE rank = 1 ORDER BY query
"""

_MAPS = """
SELECT method, side, map_method, count(*) AS maps, count(*) FILTER (status <> 'ok') AS bad,
       count(marked_share) AS marked, avg(marked_share) AS marked_share,
       avg(marked_area) FILTER (marked_share IS NOT NULL) AS marked_area,
       avg(spearman) AS spearman, avg(top_overlap) AS top_overlap
FROM tfa_map_scores GROUP BY method, side, map_method
"""

_RECALL = """
SELECT method, side, count(*) AS queries, max("top") AS top, max(candidates) AS candidates,
       avg(recall) AS recall, avg(ranked_recall) AS ranked_recall
FROM index_recall GROUP BY method, side
"""

_ASKED = ("method", "query", "query_id", "query_label", "query_predicted")
_ANSWERED = ("train_id", "train_label", "train_predicted", "score")


def summarise_training(run: Summarised) -> dict[str, Any] | None:
    """Counts; of every query and score the most helpful and the most harmful training image; of
    every score, side and map how its maps are judged; the insertion tests; the index's recall.
    None: the run is of another kind."""
    if "queries" not in run.tables:
        return None
    counts = {name: _count(run, name) for name in ("queries", "tfa_pairs", "tfa_map_scores")}
    return {
        "queries": counts["queries"],
        "pairs": counts["tfa_pairs"],
        "maps": counts["tfa_map_scores"],
        "strongest": _strongest(run),
        "judged": _ordered(run, _MAPS, "tfa_map_scores"),
        "insertion": _whole(run, "tfa_summary"),
        "recall": _ordered(run, _RECALL, "index_recall"),
    }


def _strongest(run: Summarised) -> list[dict[str, Any]]:
    """One row per score and query, with the pair of rank 1 of each side under the side's name."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    rows = run.sql(_PAIRS).to_pylist() if "tfa_pairs" in run.tables else []
    for row in rows:
        key = (row["method"], row["query"])
        entry = found.setdefault(
            key, {**{name: row[name] for name in _ASKED}, "helpful": None, "harmful": None}
        )
        entry[row["side"]] = {name: row[name] for name in _ANSWERED}
    order = {method: place for place, method in enumerate(run.methods)}
    return sorted(found.values(), key=lambda entry: (order[entry["method"]], entry["query"]))


def _ordered(run: Summarised, text: str, table: str) -> list[dict[str, Any]]:
    rows = run.sql(text).to_pylist() if table in run.tables else []
    return in_manifest_order(run, rows)


def in_manifest_order(run: Summarised, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by score, map and side, which SQL and tasks leave in another order."""
    methods, maps = run.methods, run.map_methods
    return sorted(
        rows,
        key=lambda row: (
            methods.index(row["method"]),
            row["side"] != "helpful",
            maps.index(row["map_method"]) if "map_method" in row else 0,
        ),
    )


def _whole(run: Summarised, table: str) -> list[dict[str, Any]]:
    return in_manifest_order(run, run.table(table).to_pylist()) if table in run.tables else []


def _count(run: Summarised, table: str) -> int:
    return run.commit.tables[table].rows if table in run.tables else 0
