"""What a plan costs: model evaluations, bytes per storage choice, and hours from one batch."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gradattr.attribution.passes import attribute
from gradattr.attribution.requests import MethodRequest, OtherModel
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.model import AnyModel, TrainSpec
from gradattr.plan import Stage
from gradattr.storage.commit import find_commit, read_records
from gradattr.storage.maps import map_bytes_per_row
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import RunContext
from gradattr.work.methods import normalization, stand_in_requests
from gradattr.work.modules import example_input, micro_batch, prepare_model
from gradattr.work.preflight import explained_models, first_look
from gradattr.work.prepare_attribute import ATTRIBUTE_STAGE
from gradattr.work.prepared import Prepared
from gradattr.work.resources import choose_device
from gradattr.work.trainings import TRAIN_STAGE

#: Storage choices that ``plan`` compares.
CHOICES = ("float16", "float32", "int8", "pooled:7", "topk:100", "none")


def estimate(prepared: Prepared, store: ObjectStore, *, probe: bool) -> dict[str, Any]:
    """The plan with its costs, as JSON. ``probe`` times one batch on this machine."""
    plan, context = prepared.plan, prepared.context
    manifest = context.manifest
    requests: list[MethodRequest] = []
    if isinstance(manifest, AttributeManifest):
        requests = stand_in_requests(manifest, context.shape, context.num_classes)
    seconds = _probe(context, requests) if probe else {}
    found = read_records(store, plan.run_json())
    done = {name for name, record in found if record is not None}
    stages = [_stage(context, stage, done, requests, seconds) for stage in plan.stages]
    return {
        "run_id": plan.run_id,
        "fingerprint": plan.fingerprint,
        "rows": plan.rows,
        "committed": find_commit(store, plan.run_id) is not None,
        "stages": stages,
        "methods": _methods(requests),
        "maps": manifest.store.maps,
        "map_bytes": _map_bytes(context, plan.rows) if requests else {},
        "probe": _probe_text(context, seconds) if probe else "",
    }


def _groups(requests: list[MethodRequest]) -> list[list[MethodRequest]]:
    """Requests that share their passes."""
    groups: dict[Any, list[MethodRequest]] = {}
    for request in requests:
        groups.setdefault((request.source, request.target), []).append(request)
    return list(groups.values())


def evaluations_per_row(requests: list[MethodRequest]) -> int:
    """Forward-and-backward passes per image, shared ones counted once."""
    return sum(group[0].source.evaluations for group in _groups(requests))


def _methods(requests: list[MethodRequest]) -> list[dict[str, Any]]:
    found = []
    for group in _groups(requests):
        for request in group:
            others = [other.id for other in group if other is not request]
            found.append(
                {
                    "method": request.id,
                    "evaluations": request.source.evaluations,
                    "shared_with": others if request.source.evaluations else [],
                }
            )
    order = [request.id for request in requests]
    return sorted(found, key=lambda entry: order.index(entry["method"]))


def _stage(
    context: RunContext,
    stage: Stage,
    done: set[tuple[str, str]],
    requests: list[MethodRequest],
    seconds: dict[str, float],
) -> dict[str, Any]:
    left = [task for task in stage.tasks if (stage.name, task.key) not in done]
    rows = sum(task.rows for task in stage.tasks)
    per_row = seconds.get(stage.name)
    time_left = None if per_row is None else per_row * sum(task.rows for task in left)
    slots = min(len(left) or 1, _slots(context))
    return {
        "name": stage.name,
        "shards": len(stage.tasks),
        "done": len(stage.tasks) - len(left),
        "rows": rows,
        "evaluations": rows * evaluations_per_row(requests) if stage.name == ATTRIBUTE_STAGE else 0,
        "seconds": None if time_left is None else time_left / slots,
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
    return {choice: count * map_bytes_per_row(choice, context.shape) for choice in choices}


def _probe(context: RunContext, requests: list[MethodRequest]) -> dict[str, float]:
    """Seconds per row and stage on this machine with one thread, from one batch each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(context.manifest.runtime.cpus_per_task)))
    try:
        role, spec = next(iter(explained_models(context.manifest).items()))
        model = first_look(context, role, spec)
        seconds = {}
        if spec.train is not None:
            seconds[TRAIN_STAGE] = _probe_training(context, model, spec.train)
        if requests:
            seconds[ATTRIBUTE_STAGE] = _probe_attribution(context, model, spec, requests)
        return seconds
    finally:
        torch.set_num_threads(threads)


def _probe_attribution(
    context: RunContext, model: nn.Module, spec: AnyModel, requests: list[MethodRequest]
) -> float:
    manifest = context.manifest
    device = choose_device(manifest.engine, manifest.runtime)
    evaluator, _ = prepare_model(context, model, spec, device)
    batch_size = micro_batch(context, evaluator, device)
    # Time grows with the evaluations, so the cheapest request is timed and scaled.
    own = [request for request in requests if not isinstance(request.source, OtherModel)]
    cheapest = min(own or requests, key=lambda request: request.source.evaluations or 10**9)
    per_call = max(1, cheapest.source.evaluations)
    count = max(1, batch_size // per_call)
    x = example_input(context)[:1].to(device).expand(count, *context.shape).contiguous()

    def once() -> float:
        started = time.perf_counter()
        attribute(
            evaluator,
            x,
            [cheapest],
            seeds=[0] * count,
            labels=torch.zeros(count, dtype=torch.int64, device=device),
            normalization=normalization(context.preprocess, context.shape[0]),
            batch_size=batch_size,
        )
        return time.perf_counter() - started

    once()
    per_evaluation = min(once(), once()) / (count * per_call)
    return per_evaluation * max(1, evaluations_per_row(requests))


def _probe_training(context: RunContext, model: nn.Module, train: TrainSpec) -> float:
    """Seconds per training row for all epochs: an upper bound, since training may stop early."""
    count = min(train.batch_size, 64)
    x = example_input(context)[:1].expand(count, *context.shape).contiguous()
    y = torch.zeros(count, dtype=torch.int64)

    def once() -> float:
        started = time.perf_counter()
        loss = F.cross_entropy(model.train()(x), y)
        torch.autograd.grad(loss, list(model.parameters()))
        return time.perf_counter() - started

    once()
    return once() / count * train.epochs


def _probe_text(context: RunContext, seconds: dict[str, float]) -> str:
    device = choose_device(context.manifest.engine, context.manifest.runtime)
    parts = [f"{stage} {1000 * value:.3g} ms per row" for stage, value in seconds.items()]
    return (
        f"Times are estimated from one batch on this machine ({device.type}, {_slots(context)} "
        f"tasks at once): {', '.join(parts)}; training may stop before its last epoch."
    )
