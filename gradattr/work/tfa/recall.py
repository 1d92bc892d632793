"""What an index finds of the exact answer, measured where both are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gradattr.manifest.scores import GradientScore, score_id
from gradattr.storage.objects import open_store
from gradattr.storage.parts import read_parts
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardRecord
from gradattr.work.context import RunContext
from gradattr.work.tfa.index import Ranking, index_parts, rank
from gradattr.work.tfa.loaded import Loaded
from gradattr.work.tfa.query_directions import QueryDirections, direction_groups
from gradattr.work.tfa.query_set import Row
from gradattr.work.tfa.score_batch import sketcher


def recall_table(
    context: RunContext,
    loaded: Loaded,
    sample: Sequence[Row],
    records: Sequence[ShardRecord],
    merged: Sequence[Row],
) -> pa.Table:
    """Rows of ``index_recall`` for a sample of queries: ``records`` hold the sketches, ``merged``
    the exact answer."""
    index = context.tfa_manifest.index
    assert index is not None
    store = open_store(context.manifest.store)
    sketch = sketcher(loaded, index)
    found: list[Row] = []
    for queries in direction_groups(context, loaded, sample):
        for score in context.tfa_manifest.scores:
            if isinstance(score, GradientScore):
                parts = index_parts(read_parts(store, records, "sketches"), loaded.device)
                # One more than is asked for by either.
                count = max(index.candidates, index.recall_top)
                rankings = rank(queries, sketch, score, parts, count, loaded.device)
                for side, ranking in zip(("helpful", "harmful"), rankings, strict=True):
                    found += _rows(context, queries, score, side, ranking, merged)
    columns = {name: [row[name] for row in found] for name in _COLUMNS}
    return make_table("index_recall", columns)


_COLUMNS = ("query", "method", "side", "top", "candidates", "recall", "ranked_recall")


def _rows(
    context: RunContext,
    queries: QueryDirections,
    score: GradientScore,
    side: str,
    ranking: Ranking,
    merged: Sequence[Row],
) -> list[dict[str, Any]]:
    index = context.tfa_manifest.index
    assert index is not None
    exact: dict[int, list[int]] = {}
    for row in merged:
        same = (row["method"], row["side"]) == (score_id(score), side)
        if same and row["rank"] <= index.recall_top:
            exact.setdefault(row["query"], []).append(row["train_row"])
    found = []
    for query, estimated in zip(queries.rows, ranking.rows.tolist(), strict=True):
        wanted = exact.get(query["query"], [])
        if not wanted:
            continue
        candidates = set(estimated[: index.candidates])
        first = set(estimated[: len(wanted)])
        found.append(
            {
                "query": query["query"],
                "method": score_id(score),
                "side": side,
                "top": len(wanted),
                "candidates": min(index.candidates, len(estimated)),
                "recall": len(candidates & set(wanted)) / len(wanted),
                "ranked_recall": len(first & set(wanted)) / len(wanted),
            }
        )
    return found
