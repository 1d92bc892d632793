"""The task that attributes one shard: read, predict, differentiate, write. One process, no Ray."""

from __future__ import annotations

from typing import Any

import torch

from gradattr.attribution.agreement import Agreement, agreement
from gradattr.attribution.passes import attribute
from gradattr.data.types import Batch, ShardRef
from gradattr.plan import Task
from gradattr.seeds import sample_seeds
from gradattr.storage.objects import open_store
from gradattr.storage.shards import ShardWriter
from gradattr.work.attribute.batch import attributions_of, batches_of
from gradattr.work.attribute.loaded import Loaded, load_for
from gradattr.work.attribute.rows import ShardRows
from gradattr.work.context import RunContext

#: Images of a shard on which 'mixed' precision is compared with fp32.
AGREEMENT_IMAGES = 8


def attribute_shard(context: RunContext, task: Task) -> dict[str, Any]:
    """Attribute the rows of ``task.payload['shard']`` by every method; write the shard's files
    and its record; return the record's ``extra``."""
    manifest = context.attribute_manifest
    shard = ShardRef.from_json(task.payload["shard"])
    loaded = load_for(context)
    writer = ShardWriter(
        open_store(manifest.store), context.run_id, context.fingerprint, task.stage, task.key
    )
    rows = ShardRows(writer, manifest, context.shape)
    compared: dict[str, Any] | None = None
    for batch in batches_of(context, shard):
        rows.add_errors(batch.errors)
        if len(batch) == 0:
            continue
        if compared is None and loaded.reference is not None:
            compared = precision_agreement(loaded, batch, manifest.seed)
        rows.add_batch(batch, attributions_of(loaded, batch, manifest.seed))
    extra = shard_extra(rows, loaded, compared)
    writer.finish(rows=shard.rows, row_ids=rows.row_ids, extra=extra)
    return extra


def precision_agreement(loaded: Loaded, batch: Batch, seed: int) -> dict[str, Any]:
    """How well the maps of 'mixed' precision agree with fp32, on the shard's first images."""
    few = list(range(min(AGREEMENT_IMAGES, len(batch))))
    x = batch.x[few].to(loaded.device)
    seeds = sample_seeds(seed, "sample", [batch.sample_ids[i] for i in few])
    labels = batch.labels[few].to(loaded.device)
    known = labels if bool((labels >= 0).all()) else None
    requests = [
        r for r in loaded.requests if known is not None or not str(r.target).endswith("_true")
    ]
    assert loaded.reference is not None
    both = [
        attribute(
            evaluator,
            x,
            requests,
            seeds=seeds,
            labels=known,
            normalization=loaded.normalization,
            batch_size=loaded.batch_size,
        )
        for evaluator in (loaded.reference, loaded.evaluator)
    ]
    return {
        exact.method: _medians(agreement(exact.maps, fast.maps))
        for exact, fast in zip(*both, strict=True)
        if exact.evaluations > 0
    }


def _medians(found: Agreement) -> dict[str, float | int]:
    return {
        "images": len(found.spearman),
        "spearman_median": float(found.spearman.median()),
        "spearman_minimum": float(found.spearman.min()),
        "top_overlap_median": float(found.top_overlap.median()),
    }


def shard_extra(rows: ShardRows, loaded: Loaded, compared: dict[str, Any] | None) -> dict[str, Any]:
    """What the record of an attributed shard says besides its files."""
    extra: dict[str, Any] = {
        "rows": len(rows.row_ids),
        "bad_rows": len(rows.bad_rows),
        "statuses": dict(sorted(rows.statuses.items())),
        "examples": rows.examples,
        "models": loaded.model_digests,
        "engine": loaded.report,
        "batch_size": loaded.batch_size,
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    if compared is not None:
        extra["agreement"] = compared
    return extra
