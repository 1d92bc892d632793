"""The plan of ``kind: tfa``: train, predict and select the queries, score the training data for
them, merge, map the pairs that come out, and judge the maps."""

from __future__ import annotations

from typing import Any

from gradattr.data.registry import input_shape, make_shards
from gradattr.data.types import DataIndex
from gradattr.errors import UsageError
from gradattr.manifest.data import Preprocess
from gradattr.manifest.model import AnyModel
from gradattr.manifest.scores import InfluenceScore, TracInScore, score_id
from gradattr.manifest.tfa import TfaManifest
from gradattr.models import read_trained, weights_preprocess
from gradattr.plan import Stage, Task
from gradattr.storage.commit import Commit, read_commit
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import read_run
from gradattr.work.context import MAIN
from gradattr.work.planning.check_tfa import check_tfa
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace, Prepared, assemble_run
from gradattr.work.planning.trainings import Trainings, num_classes, plan_trainings
from gradattr.work.tfa.checkpoints import checkpoint_models, kept_by_run
from gradattr.work.tfa.layout import (
    CURVATURE_STAGE,
    LOOKUP_STAGE,
    MAP_STAGE,
    PAIR_STAGE,
    PREDICT_STAGE,
    QUERY_DATA,
    SELECT_STAGE,
    SUMMARY_STAGE,
    TDA_STAGE,
    TRAIN_DATA,
    block_key,
    blocks,
    chunk_key,
    chunks,
    ekfac_key,
    kept_above,
    kept_top,
    needs_ekfac,
    needs_solution,
    solve_key,
    tda_key,
)
from gradattr.work.tfa.map_pairs import map_tables
from gradattr.work.tfa.queries import check_ids


def prepare_tfa(manifest: TfaManifest, store: ObjectStore, indexes: Indexes) -> Prepared:
    """Look at data and model, and plan. Raises DataError, ModelError, MethodError or UsageError."""
    if manifest.queries.ids is not None:
        ids = indexes.sample_ids(manifest.queries.data)
        if ids is not None:
            check_ids(manifest.queries.ids, dict.fromkeys(ids))
    data = {TRAIN_DATA: indexes.get(manifest.data), QUERY_DATA: indexes.get(manifest.queries.data)}
    preprocess: Preprocess
    if manifest.preprocess == "weights":
        preprocess = weights_preprocess(manifest.model)
    else:
        preprocess = manifest.preprocess
    shape = input_shape(manifest.data, data[TRAIN_DATA], preprocess)
    classes = num_classes(manifest.model, data[TRAIN_DATA], indexes)
    space = InputSpace(shape, classes, preprocess)
    check_tfa(manifest, data, space, indexes)
    models = explained_and_checkpoints(manifest)
    trainings = plan_trainings(models, preprocess, shape, classes, store, indexes)
    inputs = {
        "data": {
            name: {"digest": index.digest(), "format": index.format, "rows": index.rows}
            for name, index in data.items()
        },
        **trainings.inputs(),
        **space.inputs(data[TRAIN_DATA]),
    }
    kept = kept_by_run(manifest, store)
    if kept:
        inputs["kept"] = kept
    index_task = _index(manifest, store, inputs)
    if index_task is not None:
        inputs["index"] = {"run": index_task["run"], "fingerprint": index_task["fingerprint"]}
    return assemble_run(
        manifest,
        store,
        inputs,
        _stages(manifest, data, trainings, index_task),
        space,
        trainings,
        indexes=data,
    )


def explained_and_checkpoints(manifest: TfaManifest) -> dict[str, AnyModel]:
    """By role: the explained model, and TracIn's checkpoints that are given as files."""
    models: dict[str, AnyModel] = {MAIN: manifest.model}
    for score in manifest.scores:
        if isinstance(score, TracInScore):
            models |= {role: spec for role, spec, _ in checkpoint_models(score, manifest.model)}
    return models


def _index(
    manifest: TfaManifest, store: ObjectStore, inputs: dict[str, Any]
) -> dict[str, Any] | None:
    """The payload of tasks that use an index. UsageError if it is of another model, of other data
    or of other parameters."""
    if manifest.index_of is None:
        return None
    run_id = manifest.index_of.removeprefix("run:")
    try:
        commit, planned = read_commit(store, run_id), read_run(store, run_id)
    except UsageError as error:
        raise UsageError(f"index_of: {error}") from None
    theirs = planned["manifest"]
    if theirs.get("index") is None:
        raise UsageError(f"index_of: run {run_id} has built no index; state 'index' there")
    same = {
        "data": inputs["data"][TRAIN_DATA] == planned["inputs"]["data"][TRAIN_DATA],
        "model": _weights(inputs["models"][MAIN], store) & _index_weights(commit, planned),
        "preprocess": inputs["preprocess"] == planned["inputs"]["preprocess"],
        "parameters": manifest.parameters == theirs["parameters"],
    }
    for name, found in same.items():
        if not found:
            hint = f" (of that run: 'weights: run:{run_id}')" if name == "model" else ""
            raise UsageError(
                f"index_of: the index of run {run_id} is of another '{name}'; use the same as "
                f"there{hint}, or build an index for this one"
            )
    return {"run": run_id, "fingerprint": commit.fingerprint, "index": theirs["index"]}


def _weights(digest: str, store: ObjectStore) -> set[str]:
    """What identifies a model's weights: the digest in the plan, which is that of a recipe or of a
    file, and that of the file if the recipe has been followed."""
    trained = read_trained(store, digest)
    return {digest} if trained is None else {digest, trained.sha256}


def _index_weights(commit: Commit, planned: dict[str, Any]) -> set[str]:
    """The same of the model whose gradients are in the index."""
    loaded = {
        record.extra["models"][MAIN] for record in commit.records if "sketches" in record.tables
    }
    return {planned["inputs"]["models"][MAIN], *loaded}


def _stages(
    manifest: TfaManifest,
    data: dict[str, DataIndex],
    trainings: Trainings,
    index_task: dict[str, Any] | None,
) -> tuple[Stage, ...]:
    bound = manifest.queries.bound
    stages = [
        *trainings.stages(),
        _predict_stage(manifest, data[QUERY_DATA]),
        Stage(SELECT_STAGE, (Task(SELECT_STAGE, "queries", bound, {}),), ("queries",), {}),
        *_curvature_stage(manifest),
    ]
    if index_task is None:
        stages.append(_tda_stage(manifest, data[TRAIN_DATA]))
    else:
        tasks = tuple(
            Task(LOOKUP_STAGE, block_key(number), len(block), {"block": number, **index_task})
            for number, block in enumerate(blocks(manifest))
        )
        stages.append(Stage(LOOKUP_STAGE, tasks, ("tda_extremes",), {}))
    stages.append(_pair_stage(manifest))
    if manifest.maps:
        stages.append(_map_stage(manifest))
    if manifest.insertion is not None:
        task = Task(SUMMARY_STAGE, "summary", bound, {})
        stages.append(Stage(SUMMARY_STAGE, (task,), ("tfa_summary",), {}))
    return tuple(stages)


def _predict_stage(manifest: TfaManifest, index: DataIndex) -> Stage:
    tasks = tuple(
        Task(PREDICT_STAGE, f"{shard.index:05d}", shard.rows, {"shard": shard.to_json()})
        for shard in make_shards(index, manifest.shard_rows)
    )
    return Stage(PREDICT_STAGE, tasks, ("predictions", "errors"), {"predictions": index.rows})


def _curvature_stage(manifest: TfaManifest) -> list[Stage]:
    """What influence functions invert: a fit that scores may share, or solutions by block."""
    tasks: dict[str, Task] = {}
    for score in manifest.scores:
        label = score_id(score)
        if needs_ekfac(score):
            assert isinstance(score, InfluenceScore)
            key = ekfac_key(score)
            tasks.setdefault(key, Task(CURVATURE_STAGE, key, 1, {"score": label, "block": None}))
        elif needs_solution(score):
            for number, block in enumerate(blocks(manifest)):
                key = solve_key(manifest, label, number)
                payload = {"score": label, "block": number}
                tasks[key] = Task(CURVATURE_STAGE, key, len(block), payload)
    if not tasks:
        return []
    return [Stage(CURVATURE_STAGE, tuple(tasks.values()), ("tensors",), {})]


def _tda_stage(manifest: TfaManifest, index: DataIndex) -> Stage:
    """Block after block: a process that scores one shard keeps the block's query gradients for the
    next."""
    shards = make_shards(index, manifest.shard_rows)
    tasks = tuple(
        Task(
            TDA_STAGE,
            tda_key(number, shard.index),
            shard.rows,
            {"block": number, "shard": shard.to_json()},
        )
        for number, _ in enumerate(blocks(manifest))
        for shard in shards
    )
    tables = ["tda_extremes", "errors"]
    if kept_above(manifest) is not None:
        tables.append("tda_scores")
    if manifest.index is not None:
        tables.append("sketches")
    return Stage(TDA_STAGE, tasks, tuple(tables), {})


def _pair_stage(manifest: TfaManifest) -> Stage:
    tasks = tuple(
        Task(PAIR_STAGE, block_key(number), len(block), {"block": number})
        for number, block in enumerate(blocks(manifest))
    )
    tables = ["tfa_pairs"]
    if kept_top(manifest):
        tables.append("tda_scores")
    if manifest.index is not None and manifest.index.recall_queries:
        tables.append("index_recall")
    return Stage(PAIR_STAGE, tasks, tuple(tables), {})


def _map_stage(manifest: TfaManifest) -> Stage:
    tasks = tuple(
        Task(
            MAP_STAGE,
            chunk_key(queries),
            len(queries),
            {"block": block, "first": queries.start, "stop": queries.stop},
        )
        for block, queries in chunks(manifest)
    )
    tables = [*map_tables(manifest), "tfa_map_scores"]
    if manifest.insertion is not None:
        tables.append("tfa_insertion")
    return Stage(MAP_STAGE, tasks, tuple(tables), {})
