"""The curvature that influence functions invert: estimated once, or solved for once per block.

'ekfac': one task fits the factored curvature and keeps it; every later task solves with it.
'cg': one task per block of queries solves by conjugate gradients and keeps the solutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.data.registry import make_shards, read_shard, sample_shards
from gradattr.data.types import DataIndex, ShardRef
from gradattr.errors import DataError
from gradattr.influence import Curvature, Directions, Ekfac
from gradattr.influence.curvature import Solution
from gradattr.manifest.scores import InfluenceScore, score_id
from gradattr.plan import Task
from gradattr.seeds import derive_seed
from gradattr.storage.objects import open_store
from gradattr.storage.parts import read_tensors, stage_records, tensor_rows
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.tfa.bad_rows import labelled
from gradattr.work.tfa.layout import CURVATURE_STAGE, TRAIN_DATA, blocks, ekfac_key
from gradattr.work.tfa.loaded import Loaded, images_at_once, load_for
from gradattr.work.tfa.memory import within_memory
from gradattr.work.tfa.query_set import query_images, query_set

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def prepare_curvature(context: RunContext, task: Task) -> dict[str, Any]:
    """Fit a curvature (``payload['block']`` None), or solve for a block; keep it as ``tensors``."""
    loaded = load_for(context)
    score = next(
        score for score in context.tfa_manifest.scores if score_id(score) == task.payload["score"]
    )
    assert isinstance(score, InfluenceScore)
    writer = ShardWriter(
        open_store(context.manifest.store),
        context.run_id,
        context.fingerprint,
        task.stage,
        task.key,
    )
    report: dict[str, Any] = {}
    if task.payload["block"] is None:
        state = _fit(context, loaded, score).state()
        tensors = {name: value.cpu().numpy() for name, value in state.items()}
    else:
        tensors, report = _solve(context, loaded, score, task.payload["block"])
    for table in tensor_rows(tensors):
        writer.append("tensors", table)
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "models": loaded.digests,
        "curvature": report,
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def load_ekfac(context: RunContext, loaded: Loaded, score: InfluenceScore) -> Ekfac:
    """The curvature that the stage before has fitted; read once in a process."""
    key = (f"ekfac {score.examples}",)
    if key not in loaded.kept:
        store = open_store(context.manifest.store)
        records = stage_records(
            store, context.run_id, context.fingerprint, CURVATURE_STAGE, [ekfac_key(score)]
        )
        state = {
            name: torch.from_numpy(value.copy()).to(loaded.device)
            for name, value in read_tensors(store, records).items()
        }
        loaded.remember(key, Ekfac.from_state(loaded.products, state))
    found: Ekfac = loaded.kept[key]
    return found


def load_curvature(context: RunContext, loaded: Loaded, score: InfluenceScore) -> Curvature:
    """The curvature for conjugate gradients: its examples in memory; read once in a process."""
    key = (f"curvature {score.examples} {score.matrix}",)
    if key not in loaded.kept:
        parts = list(example_batches(context, loaded, score.examples)())
        x, y = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        loaded.remember(key, Curvature(loaded.products, x, y, score.matrix))
    found: Curvature = loaded.kept[key]
    return found


def _fit(context: RunContext, loaded: Loaded, score: InfluenceScore) -> Ekfac:
    batches = example_batches(context, loaded, score.examples)
    seed = derive_seed(context.manifest.seed, "ekfac labels")
    x, y = next(iter(batches()))
    return within_memory(loaded, x, y, lambda: Ekfac.fit(loaded.products, batches, seed=seed))


def _solve(
    context: RunContext, loaded: Loaded, score: InfluenceScore, block: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors '<query>/<parameter>', and how well they were found."""
    rows = query_set(context).within(blocks(context.tfa_manifest)[block])
    if not rows:
        return {}, {}
    curvature = load_curvature(context, loaded, score)
    tensors: dict[str, Any] = {}
    steps, residual = 0, 0.0
    target = context.tfa_manifest.queries.target

    def solved(directions: Directions, size: int) -> Solution:
        curvature.batch_size = size
        return curvature.solve(
            directions,
            score.damping,
            tolerance=score.tolerance,
            max_steps=score.max_steps,
        )

    # A few at a time: conjugate gradients keep four copies of each.
    for first in range(0, len(rows), 8):
        part = rows[first : first + 8]
        x, y = (value.to(loaded.device) for value in query_images(context, part))
        gradients = partial(loaded.products.directions, x, y, target)
        directions = within_memory(loaded, x, y, gradients)
        solution, _ = halve_on_oom(partial(solved, directions), curvature.batch_size)
        steps = max(steps, solution.steps)
        residual = max(residual, float(solution.residuals.max()))
        for name, values in solution.directions.values.items():
            for row, value in zip(part, values, strict=True):
                tensors[f"{row['query']}/{name}"] = value.cpu().numpy()
    return tensors, {"steps": steps, "largest_residual": residual, "matrix": score.matrix}


def example_batches(context: RunContext, loaded: Loaded, count: int | None) -> Batches:
    """Batches of training examples (all, or ``count`` drawn at random), the same at every call.
    Rows that cannot be used are left out (so are those of which the model says no numbers: one
    would spoil the whole curvature); the scoring stage tells of them."""
    manifest = context.tfa_manifest
    index = DataIndex.from_json(context.indexes[TRAIN_DATA])
    shards: tuple[ShardRef, ...]
    if count is None or count >= index.rows:
        shards = make_shards(index, manifest.shard_rows)
    else:
        shards = sample_shards(index, count, derive_seed(manifest.seed, "curvature", count))

    def read() -> Iterable[tuple[Tensor, Tensor]]:
        waiting: list[tuple[Tensor, Tensor]] = []
        size, at_once = 0, min(256, images_at_once(context))
        for shard in shards:
            for batch in read_shard(
                manifest.data,
                shard,
                context.preprocess,
                batch_size=at_once,
                options=context.data_options,
            ):
                good = labelled(batch, context.num_classes)
                with torch.no_grad():
                    outputs = loaded.module(batch.x.to(loaded.device))
                good &= torch.isfinite(outputs).all(dim=1).cpu()
                waiting.append((batch.x[good], batch.labels[good]))
                size += int(good.sum())
                if size >= at_once:
                    yield _joined(waiting, loaded.device)
                    waiting, size = [], 0
        if size:
            yield _joined(waiting, loaded.device)

    if not any(True for _ in read()):
        raise DataError("scores: no training example can be used to estimate the curvature")
    return read


def _joined(parts: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    x, y = (torch.cat([part[at] for part in parts]).to(device) for at in (0, 1))
    return x, y
