"""What a run of kind tfa costs: passes over the training data, pairs, bytes, and seconds of its
tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gradattr.data.types import DataIndex
from gradattr.influence import Directions, GradientProducts, tfa_maps
from gradattr.manifest.scores import GradientScore, InfluenceScore, TracInScore
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.training_maps import AnyMap, TfaMap
from gradattr.plan import Task
from gradattr.storage.maps import map_bytes_per_row
from gradattr.storage.objects import open_store
from gradattr.storage.run_json import read_run
from gradattr.work.context import MAIN, RunContext
from gradattr.work.methods import request_of
from gradattr.work.modules import example_input
from gradattr.work.planning.check_tfa import check_parts, tfa_notes
from gradattr.work.planning.estimate_diffroar import Costs
from gradattr.work.planning.preflight import first_look
from gradattr.work.planning.probe import clock
from gradattr.work.resources import choose_device
from gradattr.work.tfa.layout import (
    LOOKUP_STAGE,
    MAP_STAGE,
    PREDICT_STAGE,
    QUERY_DATA,
    TDA_STAGE,
    TRAIN_DATA,
    blocks,
    kept_top,
    needs_ekfac,
    needs_solution,
)
from gradattr.work.tfa.map_pairs import is_layer_map
from gradattr.work.tfa.query_directions import DIRECTION_BYTES
from gradattr.work.tfa.training_maps import no_model, no_pool

#: A row of 'tda_scores' before compression: query, training row, score (the method costs nothing).
_SCORE_BYTES = 16
#: Noisy copies that are timed.
_COPIES = 4


def tfa_size(context: RunContext) -> dict[str, Any]:
    """JSON of what stands in a plan before anything is timed."""
    manifest = context.tfa_manifest
    model = first_look(context, MAIN, manifest.model)
    check_parts(manifest, model)
    data = {name: DataIndex.from_json(value) for name, value in context.indexes.items()}
    train, bound = data[TRAIN_DATA].rows, manifest.queries.bound
    pairs = _pairs(manifest, train)
    numbers = _parameters(context, model)
    return {
        "training_examples": train,
        "queries": bound,
        "passes": _passes(manifest, numbers),
        "scores": train * bound * len(manifest.scores),
        "score_bytes": _kept_scores(manifest, train) * _SCORE_BYTES,
        "pairs": pairs,
        "maps": pairs * len(manifest.maps),
        "map_bytes": pairs * sum(_map_bytes(context, spec) for spec in manifest.maps),
        "index_bytes": 0 if manifest.index is None else train * 2 * manifest.index.buckets,
        "query_gradient_bytes": 4 * numbers,
        "notes": tfa_notes(manifest, model, data),
    }


def tfa_evaluations(context: RunContext) -> dict[str, int]:
    """Model evaluations at most, by stage."""
    manifest = context.tfa_manifest
    size = tfa_size(context)
    per_pair = sum(_evaluations(context, spec) for spec in manifest.maps)
    scoring = {TDA_STAGE: size["training_examples"] * size["passes"]}
    if manifest.index_of is not None:
        scoring = {LOOKUP_STAGE: manifest.queries.bound * _candidates(manifest)}
    return {
        PREDICT_STAGE: DataIndex.from_json(context.indexes[QUERY_DATA]).rows,
        **scoring,
        MAP_STAGE: size["pairs"] * per_pair,
    }


def tfa_costs(context: RunContext) -> Costs:
    """Time the products of a few training examples, and a map, on this machine."""
    manifest = context.tfa_manifest
    device = choose_device(manifest.engine, manifest.runtime)
    model = first_look(context, MAIN, manifest.model).to(device).eval()
    products = GradientProducts(model, parameters=manifest.parameters)
    numbers = _parameters(context, model)
    together = min(manifest.query_block, manifest.queries.bound, _at_once(manifest, numbers))
    per_example = _product_seconds(context, products, device, together)
    per_copy = _map_seconds(context, products, device)
    passes = _passes(manifest, numbers) / len(blocks(manifest))
    per_query = 2 * manifest.top * len(manifest.scores)
    copies = sum(_evaluations(context, spec) for spec in manifest.maps)
    costs: Costs = {
        PREDICT_STAGE: _per_rows(per_example / 3),
        TDA_STAGE: _per_rows(per_example * passes),
        MAP_STAGE: _per_rows(per_query * copies * per_copy),
    }
    if manifest.index_of is not None:
        costs[LOOKUP_STAGE] = _per_rows(_candidates(manifest) * per_example)
    return costs


def _per_rows(seconds: float) -> Callable[[Task], float]:
    return lambda task: task.rows * seconds


def _pairs(manifest: TfaManifest, train: int) -> int:
    return manifest.queries.bound * len(manifest.scores) * 2 * min(manifest.top, train)


def _kept_scores(manifest: TfaManifest, train: int) -> int:
    """Rows of 'tda_scores' at most."""
    per_query = {"none": 0, "top": min(train, 2 * kept_top(manifest))}
    kept = per_query.get(manifest.keep.partition(":")[0], train)
    return kept * manifest.queries.bound * len(manifest.scores)


def _map_bytes(context: RunContext, spec: AnyMap) -> int:
    channels, height, width = context.shape
    return map_bytes_per_row(
        context.manifest.store.maps, (1 if is_layer_map(spec) else channels, height, width)
    )


def _evaluations(context: RunContext, spec: AnyMap) -> int:
    """Model evaluations of one map."""
    if isinstance(spec, TfaMap):
        return spec.samples if spec.sigma > 0 else 1
    request = request_of(spec.method, spec.target, no_pool, no_model)
    return request.evaluations(context.num_classes, context.shape)


def _parameters(context: RunContext, model: nn.Module) -> int:
    products = GradientProducts(model, parameters=context.tfa_manifest.parameters)
    return sum(shape.numel() for shape in products.parameter_shapes().values())


def _at_once(manifest: TfaManifest, numbers: int) -> int:
    """Queries whose gradients are in memory together: see ``queries_at_once``."""
    sets = 1 + _checkpoints(manifest)
    sets += sum(isinstance(score, InfluenceScore) for score in manifest.scores)
    return max(1, DIRECTION_BYTES // (4 * numbers * sets))


def _checkpoints(manifest: TfaManifest) -> int:
    """Of all TracIn scores together."""
    kept = manifest.model.train.keep_epochs if manifest.model.train else []
    return sum(
        len(score.checkpoints or score.epochs or kept)
        for score in manifest.scores
        if isinstance(score, TracInScore)
    )


def _passes(manifest: TfaManifest, numbers: int) -> int:
    """Backward passes over the training data. With an index of another run: none."""
    if manifest.index_of is not None:
        return 0
    at_once = _at_once(manifest, numbers)
    groups = sum(math.ceil(len(block) / at_once) for block in blocks(manifest))
    # One pass serves all products at the model itself.
    plain = any(
        isinstance(score, GradientScore) or needs_ekfac(score) or needs_solution(score)
        for score in manifest.scores
    )
    relatif = sum(score.score == "relatif" for score in manifest.scores)
    return groups * (plain + _checkpoints(manifest) + relatif)


def _candidates(manifest: TfaManifest) -> int:
    """Training examples at most that are scored for one query through an index."""
    assert manifest.index_of is not None
    planned = read_run(open_store(manifest.store), manifest.index_of.removeprefix("run:"))
    return int(2 * planned["manifest"]["index"]["candidates"] * len(manifest.scores))


def _product_seconds(
    context: RunContext, products: GradientProducts, device: torch.device, queries: int
) -> float:
    """Seconds of one training example's products with so many queries."""
    x = example_input(context)[:1].to(device)
    y = torch.zeros(1, dtype=torch.int64, device=device)
    products.wiring(x.expand(2, *context.shape).contiguous(), y.expand(2))
    count = products.batch_size or 1
    images = x.expand(count, *context.shape).contiguous()
    labels = y.expand(count).contiguous()
    one = products.directions(x, y)
    directions = Directions(
        {
            name: value.expand(queries, *value.shape[1:]).contiguous()
            for name, value in one.values.items()
        }
    )
    now = clock(device)

    def once() -> float:
        started = now()
        products.dots_and_norms(images, labels, directions)
        return now() - started

    once()
    return min(once(), once()) / count


def _map_seconds(context: RunContext, products: GradientProducts, device: torch.device) -> float:
    """Seconds of one noisy copy of one pair."""
    x = example_input(context)[:1].to(device)
    y = torch.zeros(1, dtype=torch.int64, device=device)
    directions = products.directions(x, y)
    now = clock(device)

    def once() -> float:
        started = now()
        tfa_maps(products, x, y, directions, [(0, 0)], copies=_COPIES, sigma=0.1)
        return now() - started

    once()
    return min(once(), once()) / _COPIES
