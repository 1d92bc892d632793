"""What a plan costs: model evaluations, bytes per storage choice, and hours from one batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from gradattr.attribution.requests import MethodRequest
from gradattr.data.types import DataIndex
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.model import AnyModel
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.tfa import TfaManifest
from gradattr.plan import Stage, Task
from gradattr.storage.commit import find_commit, read_records
from gradattr.storage.maps import map_bytes_per_row
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import MAIN, RunContext
from gradattr.work.methods import map_channels, stand_in_requests
from gradattr.work.patching.summarise import PATCH_STAGE
from gradattr.work.planning.check_patching import patching_cost
from gradattr.work.planning.estimate_diffroar import (
    Costs,
    diffroar_costs,
    diffroar_size,
    rank_evaluations,
)
from gradattr.work.planning.estimate_evaluate import (
    JudgeCost,
    judge_cost,
    judge_seconds,
    metrics_json,
)
from gradattr.work.planning.estimate_tfa import tfa_costs, tfa_evaluations, tfa_size
from gradattr.work.planning.preflight import first_look
from gradattr.work.planning.prepare_attribute import ATTRIBUTE_STAGE
from gradattr.work.planning.prepare_diffroar import RANK_STAGE
from gradattr.work.planning.prepare_evaluate import JUDGE_STAGE
from gradattr.work.planning.prepared import Prepared
from gradattr.work.planning.probe import (
    attribution_seconds,
    epoch_seconds,
    evaluations_per_row,
    groups,
    task_threads,
)
from gradattr.work.planning.trainings import TRAIN_STAGE
from gradattr.work.resources import choose_device

#: Storage choices that ``plan`` compares.
CHOICES = ("float16", "float32", "int8", "pooled:7", "topk:100", "none")

_MODEL: TypeAdapter[AnyModel] = TypeAdapter(AnyModel)


def estimate(prepared: Prepared, store: ObjectStore, *, probe: bool) -> dict[str, Any]:
    """The plan with its costs, as JSON. ``probe`` times a few batches on this machine."""
    plan, context = prepared.plan, prepared.context
    manifest = context.manifest
    requests: list[MethodRequest] = []
    evaluations: dict[str, int] = {}
    judged: JudgeCost | None = None
    if isinstance(manifest, AttributingManifest):
        requests = stand_in_requests(manifest, context.shape, context.num_classes)
    if isinstance(manifest, EvaluateManifest):
        network = first_look(context, MAIN, manifest.model).eval()
        judged = judge_cost(context, network, plan.rows)
        evaluations[JUDGE_STAGE] = judged.total
    if isinstance(manifest, AttributeManifest):
        evaluations[ATTRIBUTE_STAGE] = plan.rows * evaluations_per_row(
            requests, context.num_classes, context.shape
        )
    audit = isinstance(manifest, DiffRoarManifest)
    if audit:
        evaluations[RANK_STAGE] = rank_evaluations(context)
    traced = isinstance(manifest, TfaManifest)
    if traced:
        evaluations |= tfa_evaluations(context)
    costs = _costs(prepared, requests, judged) if probe else {}
    if isinstance(manifest, PatchingManifest):
        with task_threads(context):
            evaluations[PATCH_STAGE], each = patching_cost(context, plan.rows, probe=probe)
        costs |= {PATCH_STAGE: lambda task: each * task.rows} if probe else {}
    found = read_records(store, plan.run_json())
    done = {name for name, record in found if record is not None}
    return {
        "run_id": plan.run_id,
        "fingerprint": plan.fingerprint,
        "rows": plan.rows,
        "committed": find_commit(store, plan.run_id) is not None,
        "stages": [_stage(context, stage, done, evaluations, costs) for stage in plan.stages],
        "methods": _methods(context, requests),
        "maps": manifest.store.maps,
        "map_bytes": _map_bytes(context, plan.rows) if _keeps_maps(context) else {},
        "metrics": [] if judged is None else metrics_json(judged),
        "audit": diffroar_size(context) if audit else None,
        "tfa": tfa_size(context) if traced else None,
        "probe": _probe_text(context) if probe else "",
    }


def _methods(context: RunContext, requests: Sequence[MethodRequest]) -> list[dict[str, Any]]:
    found = []
    for group in groups(requests):
        for request in group:
            others = [other.id for other in group if other is not request]
            evaluations = request.evaluations(context.num_classes, context.shape)
            found.append(
                {
                    "method": request.id,
                    "evaluations": evaluations,
                    "shared_with": others if evaluations else [],
                }
            )
    order = [request.id for request in requests]
    return sorted(found, key=lambda entry: order.index(entry["method"]))


def _stage(
    context: RunContext,
    stage: Stage,
    done: set[tuple[str, str]],
    evaluations: dict[str, int],
    costs: Costs,
) -> dict[str, Any]:
    left = [task for task in stage.tasks if (stage.name, task.key) not in done]
    cost = costs.get(stage.name)
    slots = min(len(left) or 1, _slots(context))
    return {
        "name": stage.name,
        "shards": len(stage.tasks),
        "done": len(stage.tasks) - len(left),
        "rows": sum(task.rows for task in stage.tasks),
        "evaluations": evaluations.get(stage.name, 0),
        "seconds": None if cost is None else sum(map(cost, left)) / slots,
    }


def _slots(context: RunContext) -> int:
    runtime = context.manifest.runtime
    if runtime.address == "inline":
        return 1
    if runtime.workers != "auto":
        return runtime.workers
    return max(1, int((os.cpu_count() or 1) / runtime.cpus_per_task))


def _map_bytes(context: RunContext, rows: int) -> dict[str, int]:
    count = rows * len(context.attribute_manifest.methods)
    mine = context.manifest.store.maps
    choices = CHOICES if mine in CHOICES else (*CHOICES, mine)
    channels = map_channels(context.attribute_manifest.methods, context.shape[0])
    shape = (channels, *context.shape[1:])
    return {choice: count * map_bytes_per_row(choice, shape) for choice in choices}


def _keeps_maps(context: RunContext) -> bool:
    """Whether the run makes maps of a data set; those of another run stay there."""
    manifest = context.manifest
    if isinstance(manifest, EvaluateManifest):
        return manifest.attributions is None
    return isinstance(manifest, AttributeManifest)


def _costs(
    prepared: Prepared, requests: Sequence[MethodRequest], judged: JudgeCost | None
) -> Costs:
    """What each stage's tasks take on this machine with the threads that a task has."""
    context = prepared.context
    with task_threads(context):
        trained = {
            task.key: _training_seconds(context, task)
            for stage in prepared.plan.stages
            for task in stage.tasks
            if stage.name == TRAIN_STAGE
        }
        costs: Costs = {TRAIN_STAGE: lambda task: trained[task.key]}
        if requests:
            spec = context.attribute_manifest.model
            model = first_look(context, MAIN, spec)
            if judged is None:
                per_row = attribution_seconds(context, model, spec, requests)
            else:
                per_row = judge_seconds(context, model, judged)
            stage = ATTRIBUTE_STAGE if judged is None else JUDGE_STAGE
            costs[stage] = lambda task: per_row * task.rows
        if isinstance(context.manifest, DiffRoarManifest):
            costs |= diffroar_costs(context)
        if isinstance(context.manifest, TfaManifest):
            costs |= tfa_costs(context)
    return costs


def _training_seconds(context: RunContext, task: Task) -> float:
    """Of all epochs: an upper bound, since a training may stop early."""
    spec = _MODEL.validate_python(task.payload["model"])
    assert spec.train is not None
    rows = {name: DataIndex.from_json(v).rows for name, v in task.payload["data"].items()}
    return spec.train.epochs * epoch_seconds(context, spec, rows["train"], rows.get("test", 0))


def _probe_text(context: RunContext) -> str:
    device = choose_device(context.manifest.engine, context.manifest.runtime)
    judged = isinstance(context.manifest, EvaluateManifest)
    compared = "ranking and comparing maps, " if judged else ""
    return (
        f"Times are estimated from a few batches on this machine ({device.type}, "
        f"{_slots(context)} tasks at once); training may stop before its last epoch.\n"
        "Not counted: the start of Ray and its workers (a minute or less), reading and writing, "
        f"{compared}other programs' load."
    )
