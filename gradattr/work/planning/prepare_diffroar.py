"""The plan of ``kind: diffroar``: train the base models, rank every image's coordinates, retrain
on what is kept of them, score."""

from __future__ import annotations

from gradattr.data.registry import input_shape, make_shards
from gradattr.data.types import DataIndex
from gradattr.manifest.data import Preprocess
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.models import weights_preprocess
from gradattr.plan import Stage, Task
from gradattr.storage.objects import ObjectStore
from gradattr.work.diffroar.design import (
    Trial,
    base_models,
    learners,
    scheme_learners,
    schemes,
    trials,
)
from gradattr.work.planning.check_diffroar import check_diffroar
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace, Prepared, assemble_run, plan_pools
from gradattr.work.planning.trainings import num_classes, plan_trainings

RANK_STAGE = "rank"
TRIAL_STAGE = "trial"
#: In place of trials, without retraining.
EVALUATE_STAGE = "evaluate"
SCORE_STAGE = "score"

#: Names of the data sets in the context, and of the splits in the table 'ranks'.
TRAIN, TEST = "train", "test"


def prepare_diffroar(manifest: DiffRoarManifest, store: ObjectStore, indexes: Indexes) -> Prepared:
    """Look at data and models, and plan. Raises DataError, ModelError or MethodError."""
    data = {TRAIN: indexes.get(manifest.data), TEST: indexes.get(manifest.test)}
    space = _input_space(manifest, data, indexes)
    check_diffroar(manifest, data, space, indexes)
    models = base_models(manifest)
    trainings = plan_trainings(models, space.preprocess, space.shape, space.classes, store, indexes)
    pools = plan_pools(manifest, indexes, space)
    inputs = {
        "data": {
            name: {"digest": index.digest(), "format": index.format, "rows": index.rows}
            for name, index in data.items()
        },
        **trainings.inputs(),
        "pools": {name: digest for name, (digest, _) in pools.items()},
        **space.inputs(data[TRAIN]),
    }
    todo = trials(manifest)
    stages = (
        *trainings.stages(),
        _rank_stage(manifest, data),
        _trial_stage(manifest, todo),
        _score_stage(manifest, todo),
    )
    return assemble_run(
        manifest, store, inputs, stages, space, trainings, pools=pools, indexes=data
    )


def _input_space(
    manifest: DiffRoarManifest, data: dict[str, DataIndex], indexes: Indexes
) -> InputSpace:
    preprocess: Preprocess
    first = next(iter(manifest.models.values()))
    if manifest.preprocess == "weights":
        preprocess = weights_preprocess(first)
    else:
        preprocess = manifest.preprocess
    shape = input_shape(manifest.data, data[TRAIN], preprocess)
    return InputSpace(shape, num_classes(first, data[TRAIN], indexes), preprocess)


def _rank_stage(manifest: DiffRoarManifest, data: dict[str, DataIndex]) -> Stage:
    """One task per ranker and shard; it stores a row per image and scheme."""
    per_ranker: dict[str, int] = {}
    for scheme in schemes(manifest):
        per_ranker[scheme.ranker] = per_ranker.get(scheme.ranker, 0) + 1
    # Without retraining nobody asks for the training set's ranks.
    splits = (TEST,) if manifest.retrain is False else (TRAIN, TEST)
    tasks = []
    for ranker, count in per_ranker.items():
        for split in splits:
            for shard in make_shards(data[split], manifest.shard_rows):
                payload = {"ranker": ranker, "split": split, "shard": shard.to_json()}
                key = rank_key(ranker, split, shard.index)
                tasks.append(Task(RANK_STAGE, key, shard.rows * count, payload))
    rows = sum(task.rows for task in tasks)
    return Stage(RANK_STAGE, tuple(tasks), tables=("ranks",), expected_rows={"ranks": rows})


def rank_key(ranker: str, split: str, shard: int) -> str:
    """Key of a shard of the ranking stage."""
    return f"{ranker}-{split}-{shard:05d}"


def _trial_stage(manifest: DiffRoarManifest, todo: list[Trial]) -> Stage:
    workers = {name: spec.train.workers for name, spec in learners(manifest).items() if spec.train}
    stage, rows = TRIAL_STAGE, 1
    if manifest.retrain is False:
        # One task tests every level and arm of a scheme.
        stage, rows = EVALUATE_STAGE, 2 * len(manifest.levels)
    tasks = tuple(
        Task(
            stage,
            trial.key,
            rows,
            {"trial": trial.to_json(), "workers": workers.get(trial.learner, 1)},
        )
        for trial in todo
    )
    expected = {"trials": rows * len(tasks)}
    return Stage(stage, tasks, tables=("trials",), expected_rows=expected)


def _score_stage(manifest: DiffRoarManifest, todo: list[Trial]) -> Stage:
    cells = [
        {
            "scheme": scheme.scheme,
            "model": scheme.model,
            "method": scheme.method,
            "learner": learner,
        }
        for scheme, learner in scheme_learners(manifest)
    ]
    payload = {
        "schemes": cells,
        "levels": list(manifest.levels),
        "seeds": manifest.seeds,
        "variants": list(dict.fromkeys(trial.variant for trial in todo)),
        "stage": EVALUATE_STAGE if manifest.retrain is False else TRIAL_STAGE,
    }
    task = Task(SCORE_STAGE, "scores", len(todo), payload)
    return Stage(SCORE_STAGE, (task,), tables=("pred_power", "diffroar"), expected_rows={})
