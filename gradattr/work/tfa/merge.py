"""The task that merges a block's scores over all shards: the exact highest and lowest of the whole
training set, what the model says of those images, and how well an index would have found them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradattr.data.registry import make_shards
from gradattr.data.types import DataIndex
from gradattr.plan import Task
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.parts import read_parts, stage_records
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import ShardRecord, ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.tfa.layout import (
    LOOKUP_STAGE,
    TDA_STAGE,
    TRAIN_DATA,
    block_key,
    blocks,
    kept_extremes,
    kept_top,
    tda_key,
)
from gradattr.work.tfa.loaded import Loaded, images_at_once, load_for
from gradattr.work.tfa.queries import predictions
from gradattr.work.tfa.query_set import Row, picked, query_set
from gradattr.work.tfa.recall import recall_table

#: Rows that wait to be merged.
_MERGE_AT = 2**21

SIDES = ("helpful", "harmful")


def merge_block(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``tfa_pairs`` of the block ``task.payload['block']``, with 'keep: top:<k>' its rows of
    ``tda_scores``, and with an index ``index_recall`` of its sample of queries."""
    manifest = context.tfa_manifest
    loaded = load_for(context)
    store = open_store(manifest.store)
    block = task.payload["block"]
    queries = query_set(context).within(blocks(manifest)[block])
    records = score_records(context, store, block) if queries else []
    merged = merge(read_parts(store, records, "tda_extremes"), kept_extremes(manifest))
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    pairs = _pairs(merged, manifest.top)
    if pairs:
        writer.append("tfa_pairs", _pair_table(context, loaded, pairs, queries))
    if kept_top(manifest):
        writer.append("tda_scores", _kept(merged, kept_top(manifest)))
    if manifest.index is not None:
        # The first queries of all, in whatever block; sketches stand with the first block.
        sample = [row for row in queries if row["query"] < manifest.index.recall_queries]
        if sample:
            sketched = score_records(context, store, 0)
            writer.append("index_recall", recall_table(context, loaded, sample, sketched, merged))
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "pairs": len(pairs),
        "models": loaded.digests,
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def score_records(context: RunContext, store: ObjectStore, block: int) -> list[ShardRecord]:
    """Records of the tasks that scored a block."""
    manifest = context.tfa_manifest
    if manifest.index_of is not None:
        stage, keys = LOOKUP_STAGE, [block_key(block)]
    else:
        index = DataIndex.from_json(context.indexes[TRAIN_DATA])
        shards = make_shards(index, manifest.shard_rows)
        stage, keys = TDA_STAGE, [tda_key(block, shard.index) for shard in shards]
    return stage_records(store, context.run_id, context.fingerprint, stage, keys)


def merge(parts: Iterable[pa.Table], count: int) -> list[Row]:
    """Of rows of ``tda_extremes`` the ``count`` highest and lowest of each query and method: rows
    with 'side' and 'rank' besides, by query, method, side and rank.

    Equal scores stand in the order of the training rows, so the answer does not depend on shards.
    """
    waiting: list[pa.Table] = []
    size = 0
    for table in parts:
        waiting.append(table)
        size += len(table)
        if size > _MERGE_AT and len(waiting) > 1:
            waiting = [_best(pa.concat_tables(waiting), count)]
            size = len(waiting[0])
    if not any(len(table) for table in waiting):
        return []
    return _ranked(_best(pa.concat_tables(waiting), count), count)


def _best(table: pa.Table, count: int) -> pa.Table:
    """The rows that are among the ``count`` highest or lowest of their query and method."""
    keep = np.zeros(len(table), bool)
    for side in SIDES:
        order, ranks = _order(table, side)
        keep[order[ranks < count]] = True
    return table.filter(pa.array(keep))


def _order(table: pa.Table, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Places of a table in the order of query, method and side, each example once; and ranks."""
    queries = table["query"].to_numpy()
    rows = table["train_row"].to_numpy()
    scores = table["score"].to_numpy()
    methods = table["method"].combine_chunks().dictionary_encode()
    codes = methods.indices.to_numpy()
    order = np.lexsort((rows, -scores if side == "helpful" else scores, codes, queries))
    same = (np.diff(queries[order]) == 0) & (np.diff(codes[order]) == 0)
    # An example that is among both the highest and the lowest of its shard stands there twice.
    twice = np.concatenate([[False], same & (np.diff(rows[order]) == 0)])
    order = order[~twice]
    fresh = (np.diff(queries[order]) != 0) | (np.diff(codes[order]) != 0)
    begins = np.concatenate([[True], fresh])
    starts = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    return order, np.arange(len(order)) - starts


def _ranked(table: pa.Table, count: int) -> list[Row]:
    rows = table.to_pylist()
    found: list[Row] = []
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for side in SIDES:
        for place, rank in zip(*_order(table, side), strict=True):
            if rank < count:
                found.append(rows[place] | {"side": side, "rank": int(rank) + 1})
    found.sort(
        key=lambda row: (
            row["query"],
            methods.index(row["method"]),
            SIDES.index(row["side"]),
            row["rank"],
        )
    )
    return found


def _pairs(merged: list[Row], top: int) -> list[Row]:
    """A helpful example has a score above 0, a harmful one below."""
    return [
        row
        for row in merged
        if row["rank"] <= top
        and (row["score"] > 0 if row["side"] == "helpful" else row["score"] < 0)
    ]


def _kept(merged: list[Row], top: int) -> pa.Table:
    kept = {
        (row["query"], row["method"], row["train_row"]): row["score"]
        for row in merged
        if row["rank"] <= top
    }
    columns = {
        "query": [query for query, _, _ in kept],
        "train_row": [row for _, _, row in kept],
        "method": [method for _, method, _ in kept],
        "score": list(kept.values()),
    }
    return make_table("tda_scores", columns, table_schema("tda_scores"))


def _pair_table(
    context: RunContext, loaded: Loaded, pairs: list[Row], queries: list[Row]
) -> pa.Table:
    rows = sorted({pair["train_row"] for pair in pairs})
    said = _of_training_images(context, loaded, rows)
    by_number = {query["query"]: query for query in queries}
    asked = [by_number[pair["query"]] for pair in pairs]
    columns: dict[str, Any] = {
        name: [pair[name] for pair in pairs]
        for name in (
            "query",
            "train_row",
            "train_id",
            "train_label",
            "method",
            "side",
            "rank",
            "score",
        )
    }
    columns |= {
        "query_id": [query["sample_id"] for query in asked],
        "query_label": [query["label"] for query in asked],
        "query_predicted": [query["predicted"] for query in asked],
    }
    for name in ("train_predicted", "train_loss", "marked_area"):
        columns[name] = [said[pair["train_row"]][name] for pair in pairs]
    return make_table("tfa_pairs", columns)


def _of_training_images(context: RunContext, loaded: Loaded, rows: list[int]) -> dict[int, Row]:
    """What the model says of training images, by row, and how much of each is marked."""
    found: dict[int, Row] = {}
    at_once = min(256, images_at_once(context))
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        batch = picked(context, context.tfa_manifest.data, TRAIN_DATA, some)
        said = predictions(loaded.module, batch.x.to(loaded.device), batch.labels.to(loaded.device))
        areas = [None] * len(some)
        if batch.masks is not None:
            areas = batch.masks.flatten(1).double().mean(1).tolist()
        for row, predicted, loss, area in zip(some, said.predicted, said.loss, areas, strict=True):
            found[row] = {
                "train_predicted": predicted,
                "train_loss": loss,
                "marked_area": area,
            }
    return found
