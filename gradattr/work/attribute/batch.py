"""What is done with one batch of a shard, whatever is made of the maps afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.attribution.passes import attribute
from gradattr.attribution.result import Attribution
from gradattr.data.registry import read_shard
from gradattr.data.types import Batch, RowError, ShardRef
from gradattr.seeds import sample_seeds
from gradattr.work.attribute.loaded import Loaded
from gradattr.work.attribute.rows import Group
from gradattr.work.context import RunContext

#: Bytes of images and maps that are in memory at once, whatever the images' size.
BATCH_BYTES = 96 * 1024 * 1024


def batches_of(context: RunContext, shard: ShardRef) -> Iterator[Batch]:
    """A shard's images, some at a time. Rows that cannot be read, and rows with a label that the
    model cannot have, are among a batch's errors."""
    for batch in read_shard(
        context.attribute_manifest.data,
        shard,
        context.preprocess,
        batch_size=images_at_once(context),
        options=context.data_options,
    ):
        yield _without_wrong_labels(batch, context.num_classes)


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


def attributions_of(loaded: Loaded, batch: Batch, seed: int) -> list[Group]:
    """What every method finds; those that explain the true class, of labelled samples alone."""
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
