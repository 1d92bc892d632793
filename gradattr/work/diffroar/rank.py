"""The task that ranks one shard: attribute it, order every image's coordinates, keep level bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.attribution.passes import attribute
from gradattr.attribution.result import Attribution
from gradattr.data.registry import read_shard
from gradattr.data.types import Batch, ShardRef
from gradattr.errors import DataError, MethodError
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.plan import Task
from gradattr.retraining.ranks import LevelBins
from gradattr.seeds import sample_seeds
from gradattr.storage.objects import open_store
from gradattr.storage.ranks import ranks_schema, ranks_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.diffroar.design import MODEL_FREE, NULL_FIRST, RANDOM, Scheme, schemes
from gradattr.work.diffroar.rankers import Ranker, load_ranker
from gradattr.work.training_data import check_labels

#: Bytes of images and maps that are in memory at once, whatever the images' size.
BATCH_BYTES = 96 * 1024 * 1024


def level_bins(manifest: DiffRoarManifest, shape: tuple[int, int, int]) -> LevelBins:
    """The bins that serve every level of an audit of images of ``shape``."""
    channels, height, width = bins_shape(manifest, shape)
    return LevelBins(tuple(manifest.levels), channels * height * width)


def bins_shape(manifest: DiffRoarManifest, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(channels or 1, height, width): what is ranked of one image."""
    channels, height, width = shape
    return (1 if manifest.mask.per_pixel else channels, height, width)


def rank_shard(context: RunContext, task: Task) -> dict[str, Any]:
    """Rank the images of ``task.payload['shard']`` by every scheme of ``payload['ranker']``; write
    the shard's file and its record; return the record's ``extra``."""
    manifest = context.diffroar_manifest
    ranker_name, split = task.payload["ranker"], task.payload["split"]
    own = [scheme for scheme in schemes(manifest) if scheme.ranker == ranker_name]
    ranker = None if ranker_name in MODEL_FREE else load_ranker(context, ranker_name)
    bins = level_bins(manifest, context.shape)
    schema = ranks_schema(bins_shape(manifest, context.shape), bins.levels, bins.cuts)
    writer = ShardWriter(
        open_store(manifest.store), context.run_id, context.fingerprint, task.stage, task.key
    )
    shard = ShardRef.from_json(task.payload["shard"])
    for batch in read_shard(
        manifest.data if split == "train" else manifest.test,
        shard,
        context.preprocess,
        batch_size=_images_at_once(context, len(own)),
        options=context.data_options,
    ):
        _check(batch, context.num_classes)
        found = [None] * len(own) if ranker is None else _attributions(ranker, batch, manifest.seed)
        for scheme, attribution in zip(own, found, strict=True):
            ranks = _ranks(bins, manifest, batch, split, scheme, attribution)
            table = ranks_table(schema, batch.rows, batch.sample_ids, split, scheme.scheme, ranks)
            writer.append("ranks", table)
    extra: dict[str, Any] = {"rows": task.rows, "bad_rows": 0, "torch": torch.__version__}
    if ranker is not None:
        extra |= {
            "models": ranker.model_digests,
            "engine": ranker.report,
            "batch_size": ranker.batch_size,
            "device": ranker.device.type,
        }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _ranks(
    bins: LevelBins,
    manifest: DiffRoarManifest,
    batch: Batch,
    split: str,
    scheme: Scheme,
    attribution: Attribution | None,
) -> np.ndarray:
    """(n, c or 1, h, w) uint8."""
    # The splits may use the same sample ids.
    seeds = sample_seeds(manifest.seed, f"ties {split} {scheme.scheme}", batch.sample_ids)
    per_pixel = manifest.mask.per_pixel
    if attribution is None:
        # Ties stand in random order; with everything tied that is the random scheme.
        scores = _model_free(scheme.scheme, batch)
        return bins.rank(scores, seeds, ties="random", per_pixel=per_pixel).numpy()
    bad = [at for at, status in enumerate(attribution.status) if status == "non_finite"]
    if bad:
        raise MethodError(
            f"scheme {scheme.scheme}: the map of row {batch.rows[bad[0]]} "
            f"({batch.sample_ids[bad[0]]}) of the {split} set has a NaN or an infinity, so its "
            f"coordinates have no order; it is so for {len(bad)} of {len(batch)} images"
        )
    # A map with one value per pixel orders the channels of a pixel as ties are.
    scores = attribution.maps.expand(-1, batch.x.shape[1], -1, -1)
    stuck = torch.tensor([status == "degenerate" for status in attribution.status])
    # Nothing to go by: everything is tied.
    scores = scores.masked_fill(stuck.to(scores.device)[:, None, None, None], 0)
    ranks = bins.rank(scores, seeds, ties=manifest.mask.ties, per_pixel=per_pixel)
    return ranks.cpu().numpy()


def _model_free(baseline: str, batch: Batch) -> torch.Tensor:
    """Scores (n, c, h, w) of an order that no model supplies."""
    if baseline == RANDOM:
        return torch.zeros_like(batch.x)
    assert batch.masks is not None
    null = batch.masks if baseline == NULL_FIRST else ~batch.masks
    return null[:, None].expand_as(batch.x).to(batch.x.dtype)


def _attributions(ranker: Ranker, batch: Batch, seed: int) -> list[Attribution]:
    x = batch.x.to(ranker.device, non_blocking=True)
    labels = batch.labels.to(ranker.device)

    def at(batch_size: int) -> list[Attribution]:
        return attribute(
            ranker.evaluator,
            x,
            ranker.requests,
            seeds=sample_seeds(seed, "sample", batch.sample_ids),
            labels=labels,
            normalization=ranker.normalization,
            batch_size=batch_size,
        )

    results, used = halve_on_oom(at, ranker.batch_size)
    # What did not fit once will not fit in this worker's next batch either.
    ranker.batch_size = used
    return results


def _images_at_once(context: RunContext, schemes_: int) -> int:
    channels, height, width = context.shape
    map_bytes = 4 * channels * height * width
    # An order is kept as int64 while it is made.
    return max(1, min(256, BATCH_BYTES // (map_bytes * (6 + schemes_))))


def _check(batch: Batch, classes: int) -> None:
    if batch.errors:
        first = batch.errors[0]
        raise DataError(
            f"row {first.row} ({first.sample_id}): {first.status}: {first.error}. Every image is "
            "needed for retraining: mend or remove it"
        )
    check_labels(batch, classes)
