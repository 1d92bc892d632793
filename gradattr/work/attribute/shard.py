"""The task that attributes one shard: read, predict, differentiate, write. One process, no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gradattr.attribution.agreement import Agreement, agreement
from gradattr.attribution.microbatch import halve_on_oom
from gradattr.attribution.passes import attribute
from gradattr.attribution.result import Attribution
from gradattr.data.registry import read_shard
from gradattr.data.types import Batch, RowError, ShardRef
from gradattr.plan import Task
from gradattr.seeds import sample_seeds
from gradattr.storage.objects import open_store
from gradattr.storage.shards import ShardWriter
from gradattr.work.attribute.loaded import Loaded, load_for
from gradattr.work.attribute.rows import Group, ShardRows
from gradattr.work.context import RunContext

#: Bytes of images and maps that are in memory at once, whatever the images' size.
BATCH_BYTES = 96 * 1024 * 1024

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
    for batch in read_shard(
        manifest.data,
        shard,
        context.preprocess,
        batch_size=images_at_once(context),
        options=context.data_options,
    ):
        batch = _without_wrong_labels(batch, context.num_classes)
        rows.add_errors(batch.errors)
        if len(batch) == 0:
            continue
        if compared is None and loaded.reference is not None:
            compared = _agreement(loaded, batch, manifest.seed)
        rows.add_batch(batch, _attributions(loaded, batch, manifest.seed))
    extra = _extra(rows, loaded, compared)
    writer.finish(rows=shard.rows, row_ids=rows.row_ids, extra=extra)
    return extra


def images_at_once(context: RunContext) -> int:
    """Images per reading step: their maps by every method fit in BATCH_BYTES."""
    channels, height, width = context.shape
    map_bytes = 4 * channels * height * width
    copies = 2 + len(context.attribute_manifest.methods)
    return max(1, min(256, BATCH_BYTES // (map_bytes * copies)))


def _without_wrong_labels(batch: Batch, num_classes: int) -> Batch:
    """Rows whose label the model cannot have become errors; the others stay."""
    wrong = batch.labels >= num_classes
    if not bool(wrong.any()):
        return batch
    keep = (~wrong).nonzero().flatten().tolist()
    errors = [
        RowError(
            batch.rows[i],
            batch.sample_ids[i],
            "label_error",
            f"label {int(batch.labels[i])}, but the model has classes 0 to {num_classes - 1}",
        )
        for i in wrong.nonzero().flatten().tolist()
    ]
    return Batch(
        x=batch.x[keep],
        labels=batch.labels[keep],
        rows=[batch.rows[i] for i in keep],
        sample_ids=[batch.sample_ids[i] for i in keep],
        errors=[*batch.errors, *errors],
        masks=None if batch.masks is None else batch.masks[keep],
        signal_on_top=None if batch.signal_on_top is None else batch.signal_on_top[keep],
        patched=None if batch.patched is None else batch.patched[keep],
    )


def _attributions(loaded: Loaded, batch: Batch, seed: int) -> list[Group]:
    return [
        Group(kept, _attribute(loaded, batch, kept, wanted, seed))
        for kept, wanted in _groups(loaded, batch)
    ]


def _groups(loaded: Loaded, batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    """Methods that explain the true class apply to labelled samples alone."""
    everything = list(range(len(batch)))
    labelled = (batch.labels >= 0).nonzero().flatten().tolist()
    if len(labelled) == len(everything):
        yield everything, list(range(len(loaded.requests)))
        return
    needy = [i for i, r in enumerate(loaded.requests) if str(r.target).endswith("_true")]
    others = [i for i in range(len(loaded.requests)) if i not in needy]
    if others:
        yield everything, others
    if needy and labelled:
        yield labelled, needy


def _attribute(
    loaded: Loaded, batch: Batch, kept: list[int], wanted: list[int], seed: int
) -> list[Attribution]:
    x = batch.x[kept].to(loaded.device, non_blocking=True)
    labels = batch.labels[kept].to(loaded.device)
    seeds = sample_seeds(seed, "sample", [batch.sample_ids[i] for i in kept])
    requests = [loaded.requests[i] for i in wanted]

    def at(batch_size: int) -> list[Attribution]:
        return attribute(
            loaded.evaluator,
            x,
            requests,
            seeds=seeds,
            labels=labels if bool((labels >= 0).all()) else None,
            normalization=loaded.normalization,
            batch_size=batch_size,
        )

    results, used = halve_on_oom(at, loaded.batch_size)
    # What did not fit once will not fit in this worker's next batch either.
    loaded.batch_size = used
    return results


def _agreement(loaded: Loaded, batch: Batch, seed: int) -> dict[str, Any]:
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


def _extra(rows: ShardRows, loaded: Loaded, compared: dict[str, Any] | None) -> dict[str, Any]:
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
