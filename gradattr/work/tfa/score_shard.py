"""The task that scores one shard of the training data for a block of queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradattr.data.registry import read_shard
from gradattr.data.types import Batch, RowError, ShardRef
from gradattr.plan import Task
from gradattr.storage.objects import open_store
from gradattr.storage.schemas import make_table, sketches_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.tfa.bad_rows import BadRows
from gradattr.work.tfa.layout import blocks, kept_above, kept_extremes
from gradattr.work.tfa.loaded import images_at_once, load_for
from gradattr.work.tfa.query_directions import direction_groups
from gradattr.work.tfa.query_set import query_set
from gradattr.work.tfa.score_batch import Scored, score_batch
from gradattr.work.tfa.score_matrix import ScoreMatrix


def score_shard(context: RunContext, task: Task) -> dict[str, Any]:
    """Score the training examples of ``task.payload['shard']`` for the queries of the block
    ``payload['block']``; write the shard's files and its record; return its ``extra``.

    Bad rows and sketches do not depend on the queries: the first block's tasks tell of them.
    """
    manifest = context.tfa_manifest
    loaded = load_for(context)
    first_block = task.payload["block"] == 0
    queries = query_set(context).within(blocks(manifest)[task.payload["block"]])
    writer = ShardWriter(
        open_store(manifest.store), context.run_id, context.fingerprint, task.stage, task.key
    )
    bad = BadRows(task.stage)
    matrix = ScoreMatrix([row["query"] for row in queries])
    groups = direction_groups(context, loaded, queries) if queries else iter([None][:first_block])
    for number, group in enumerate(groups):
        for batch in _batches(context, task):
            # Told once, whatever the number of passes.
            counted = bad if number == 0 else BadRows(task.stage)
            batch = counted.sift(batch, context.num_classes, labelled=True)
            sketched = manifest.index is not None and first_block and number == 0
            scored = score_batch(context, loaded, group, batch, sketched=sketched)
            matrix.add(batch, scored.values, number)
            matrix.undefined += scored.undefined
            if sketched and len(batch):
                writer.append("sketches", _sketches(batch, scored, manifest.index))
    bad.add(_not_finite(matrix))
    for table in matrix.scores(kept_above(manifest)):
        writer.append("tda_scores", table)
    for table in matrix.extremes(kept_extremes(manifest)):
        writer.append("tda_extremes", table)
    if first_block:
        bad.write(writer)
    extra = {
        "rows": task.rows,
        "models": loaded.digests,
        "gradients": loaded.products.report,
        "tracin_epochs": loaded.epochs(),
        "undefined": matrix.undefined,
        "device": loaded.device.type,
        "torch": torch.__version__,
        **({"input_rows": task.rows, **bad.extra()} if first_block else {"bad_rows": 0}),
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _batches(context: RunContext, task: Task) -> Iterator[Batch]:
    return read_shard(
        context.tfa_manifest.data,
        ShardRef.from_json(task.payload["shard"]),
        context.preprocess,
        batch_size=images_at_once(context),
        options=context.data_options,
    )


def _not_finite(matrix: ScoreMatrix) -> list[RowError]:
    return [
        RowError(row, sample_id, "non_finite", "the gradient at it has a NaN or an infinity")
        for row, sample_id in matrix.not_finite()
    ]


def _sketches(batch: Batch, scored: Scored, index: Any) -> pa.Table:
    assert scored.sketches is not None
    norms = scored.sketches.norms.float().cpu().numpy()
    good = np.flatnonzero(np.isfinite(norms))
    values = scored.sketches.values.cpu().numpy()[good]
    columns = {
        "train_row": np.asarray(batch.rows)[good],
        "train_id": [batch.sample_ids[at] for at in good],
        "train_label": batch.labels.numpy()[good],
        "norm": norms[good],
        "sketch": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values)),
    }
    return make_table("sketches", columns, sketches_schema(index.buckets))
