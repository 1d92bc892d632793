"""What a DiffROAR audit costs: trials, epochs, bytes of ranks, and the seconds of its tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gradattr.data.types import DataIndex
from gradattr.manifest.model import AnyModel
from gradattr.plan import Task
from gradattr.work.context import RunContext
from gradattr.work.diffroar.design import (
    MODEL_FREE,
    base_models,
    learners,
    ranker_methods,
    schemes,
    trials,
)
from gradattr.work.diffroar.rank import bins_shape
from gradattr.work.methods import stand_in_requests
from gradattr.work.planning.check_diffroar import diffroar_notes
from gradattr.work.planning.preflight import first_look
from gradattr.work.planning.prepare_diffroar import RANK_STAGE, TEST, TRAIN, TRIAL_STAGE
from gradattr.work.planning.probe import (
    attribution_seconds,
    epoch_seconds,
    evaluations_per_row,
    ranking_seconds,
)

#: What a task takes, in seconds, by stage.
Costs = dict[str, Callable[[Task], float]]


def diffroar_size(context: RunContext) -> dict[str, Any]:
    """JSON of what stands in a plan before anything is timed: trials and epochs by variant, and
    the bytes of the ranks (beside those of the masked copies that they stand for)."""
    manifest = context.diffroar_manifest
    epochs = _epochs(context)
    variants: dict[str, dict[str, Any]] = {}
    for trial in trials(manifest):
        entry = variants.setdefault(
            trial.variant, {"variant": trial.variant, "trials": 0, "epochs": 0}
        )
        entry["trials"] += 1
        entry["epochs"] += epochs.get(trial.learner, 0)
    rows = _rows(context)
    images = rows[TEST] if manifest.retrain is False else rows[TRAIN] + rows[TEST]
    ranks = images * len(schemes(manifest)) * math.prod(bins_shape(manifest, context.shape))
    masked = images * len(schemes(manifest)) * math.prod(context.shape)
    return {
        "variants": list(variants.values()),
        "rank_bytes": ranks,
        # A float32 copy of every image for each level and arm.
        "masked_copies_bytes": masked * 4 * 2 * len(manifest.levels),
        "notes": diffroar_notes(context),
    }


def rank_evaluations(context: RunContext) -> int:
    """Forward-and-backward passes of the ranking stage over all images."""
    manifest, rows = context.diffroar_manifest, _rows(context)
    images = rows[TEST] if manifest.retrain is False else rows[TRAIN] + rows[TEST]
    rankers = {scheme.ranker for scheme in schemes(manifest)} - set(MODEL_FREE)
    return images * sum(_evaluations(context, ranker) for ranker in rankers)


def diffroar_costs(context: RunContext) -> Costs:
    """Time an epoch of every learner, a batch of every ranker and an order on this machine."""
    rows, epochs = _rows(context), _epochs(context)
    trial = {
        name: epochs[name] * epoch_seconds(context, spec, rows[TRAIN], rows[TEST])
        for name, spec in learners(context.diffroar_manifest).items()
    }
    order = ranking_seconds(context)
    maps = {name: _map_seconds(context, name, spec) for name, spec in _rankers(context).items()}
    costs: Costs = {
        RANK_STAGE: lambda task: task.rows * (order + maps.get(task.payload["ranker"], 0.0))
    }
    if trial:
        costs[TRIAL_STAGE] = lambda task: trial[task.payload["trial"]["learner"]]
    return costs


def _rankers(context: RunContext) -> dict[str, AnyModel]:
    wanted = {scheme.ranker for scheme in schemes(context.diffroar_manifest)}
    models = base_models(context.diffroar_manifest)
    return {name: spec for name, spec in models.items() if name in wanted}


def _map_seconds(context: RunContext, name: str, spec: AnyModel) -> float:
    """Seconds per row of the table 'ranks' for its map: an image's, divided by the ranker's
    schemes."""
    manifest = context.diffroar_manifest
    methods = ranker_methods(manifest, name)
    requests = stand_in_requests(manifest, context.shape, context.num_classes, methods)
    model = first_look(context, name, spec)
    return attribution_seconds(context, model, spec, requests) / len(methods)


def _evaluations(context: RunContext, ranker: str) -> int:
    manifest = context.diffroar_manifest
    methods = ranker_methods(manifest, ranker)
    requests = stand_in_requests(manifest, context.shape, context.num_classes, methods)
    return evaluations_per_row(requests, context.num_classes, context.shape)


def _epochs(context: RunContext) -> dict[str, int]:
    """Epochs of a trial at most, by learner."""
    specs = learners(context.diffroar_manifest)
    return {name: spec.train.epochs for name, spec in specs.items() if spec.train is not None}


def _rows(context: RunContext) -> dict[str, int]:
    return {name: DataIndex.from_json(value).rows for name, value in context.indexes.items()}
