"""From a manifest to a plan: look at data and models, fix their digests, cut the work in tasks.

Reads data-set headers and hashes files; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradattr.data.registry import index_data, input_shape, make_shards, sample_shards
from gradattr.data.types import DataIndex
from gradattr.errors import DataError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.data import AnyData, Preprocess
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.methods import (
    LinearMethod,
    SampleBaseline,
)
from gradattr.manifest.model import AnyModel, LinearModel, TrainSpec
from gradattr.manifest.train import TrainManifest
from gradattr.models import published_classes, recipe_digest, weights_digest, weights_preprocess
from gradattr.plan import Plan, Stage, Task, assemble
from gradattr.seeds import derive_seed
from gradattr.storage.filesystem import S3Options
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.work.checks import check_fit
from gradattr.work.context import (
    MAIN,
    ModelRef,
    RunContext,
    data_options,
    linear_role,
    method_id,
)

TRAIN_STAGE = "train"
ATTRIBUTE_STAGE = "attribute"


@dataclass(frozen=True)
class Prepared:
    """A plan, and what its tasks share."""

    plan: Plan
    context: RunContext


class _Indexes:
    """Data indexes by spec: training, pool and attributed data are often the same files."""

    def __init__(self, options: S3Options | None) -> None:
        self._options = options
        self._known: dict[str, DataIndex] = {}

    def get(self, spec: AnyData) -> DataIndex:
        key = spec.model_dump_json()
        if key not in self._known:
            self._known[key] = index_data(spec, options=self._options)
        return self._known[key]


def make_plan(manifest: Manifest) -> Plan:
    """Return the plan of a manifest: stages, tasks, shard keys, fingerprint, run id.

    Raises DataError, ModelError or MethodError (exit code 2) for inputs that cannot work.
    """
    return prepare(manifest).plan


def prepare(manifest: Manifest, store: ObjectStore | None = None) -> Prepared:
    """The plan together with the context of its tasks."""
    store = store or open_store(manifest.store)
    indexes = _Indexes(data_options(manifest))
    if isinstance(manifest, AttributeManifest):
        return _prepare_attribute(manifest, store, indexes)
    return _prepare_train(manifest, store, indexes)


def _prepare_attribute(
    manifest: AttributeManifest, store: ObjectStore, indexes: _Indexes
) -> Prepared:
    index = indexes.get(manifest.data)
    if manifest.preprocess == "weights":
        preprocess = weights_preprocess(manifest.model)
    else:
        preprocess = manifest.preprocess
    shape = input_shape(manifest.data, index, preprocess)
    classes = _num_classes(manifest.model, index, indexes)
    trained_on = None if manifest.model.train is None else indexes.get(manifest.model.train.data)
    check_fit(manifest, index, trained_on, preprocess, shape, classes)
    models, tasks, training_data = _models(
        manifest, manifest.model, preprocess, shape, classes, store, indexes
    )
    pools = _pools(manifest, indexes)
    inputs = {
        "data": {"digest": index.digest(), "format": index.format, "rows": index.rows},
        "models": {ref.role: ref.digest for ref in models},
        "training_data": training_data,
        "pools": {name: pool_digest for name, (pool_digest, _) in pools.items()},
        "shape": list(shape),
        "num_classes": classes,
        "class_names": list(index.class_names) if index.class_names else None,
        "preprocess": preprocess.model_dump(mode="json"),
    }
    shards = make_shards(index, manifest.shard_rows)
    expected = _expected_rows(manifest, index.rows)
    attribute = Stage(
        ATTRIBUTE_STAGE,
        tuple(
            Task(ATTRIBUTE_STAGE, f"{shard.index:05d}", shard.rows, {"shard": shard.to_json()})
            for shard in shards
        ),
        tables=(*expected, "errors"),
        expected_rows=expected,
    )
    stages = (*_train_stages(tasks), attribute)
    return _assemble(manifest, store, inputs, stages, shape, classes, preprocess, models, pools)


def _expected_rows(manifest: AttributeManifest, rows: int) -> dict[str, int]:
    per_method = rows * len(manifest.methods)
    expected = {"predictions": rows, "attributions": per_method}
    if manifest.store.maps != "none":
        expected["maps"] = per_method
    return expected


def _prepare_train(manifest: TrainManifest, store: ObjectStore, indexes: _Indexes) -> Prepared:
    assert manifest.model.train is not None
    index = indexes.get(manifest.model.train.data)
    shape = input_shape(manifest.model.train.data, index, manifest.preprocess)
    classes = _num_classes(manifest.model, index, indexes)
    models, tasks, training_data = _models(
        manifest, manifest.model, manifest.preprocess, shape, classes, store, indexes
    )
    inputs = {
        "models": {ref.role: ref.digest for ref in models},
        "training_data": training_data,
        "shape": list(shape),
        "num_classes": classes,
        "class_names": list(index.class_names) if index.class_names else None,
        "preprocess": manifest.preprocess.model_dump(mode="json"),
    }
    stages = _train_stages(tasks)
    return _assemble(
        manifest, store, inputs, stages, shape, classes, manifest.preprocess, models, {}
    )


def _assemble(
    manifest: Manifest,
    store: ObjectStore,
    inputs: dict[str, Any],
    stages: tuple[Stage, ...],
    shape: tuple[int, int, int],
    classes: int,
    preprocess: Preprocess,
    models: list[ModelRef],
    pools: dict[str, tuple[str, list[dict[str, Any]]]],
) -> Prepared:
    resolved = manifest.model_dump(mode="json")
    plan = assemble(resolved, inputs, stages)
    context = RunContext(
        run_id=plan.run_id,
        fingerprint=plan.fingerprint,
        # The opened store's own spec: its local path is absolute, for workers elsewhere.
        manifest_json=resolved | {"store": store.spec.model_dump(mode="json")},
        shape=shape,
        num_classes=classes,
        preprocess_json=preprocess.model_dump(mode="json"),
        models=tuple(models),
        pools={name: shards for name, (_, shards) in pools.items()},
    )
    return Prepared(plan, context)


def _train_stages(tasks: list[Task]) -> tuple[Stage, ...]:
    if not tasks:
        return ()
    return (Stage(TRAIN_STAGE, tuple(tasks), tables=("training",), expected_rows={}),)


def _num_classes(model: AnyModel, index: DataIndex, indexes: _Indexes) -> int:
    if model.num_classes is not None:
        return model.num_classes
    published = published_classes(model)
    if published is not None:
        return published
    if model.train is not None:
        trained_on = indexes.get(model.train.data).num_classes
        if trained_on is not None:
            return trained_on
    if index.num_classes is None:
        raise DataError(
            "the data has no labels, so it does not say how many classes there are; "
            "set model.num_classes"
        )
    return index.num_classes


def _models(
    manifest: Manifest,
    model: AnyModel,
    preprocess: Preprocess,
    shape: tuple[int, int, int],
    classes: int,
    store: ObjectStore,
    indexes: _Indexes,
) -> tuple[list[ModelRef], list[Task], dict[str, str]]:
    """The run's models, the tasks that train them, and the digests of what they train on."""
    wanted: list[tuple[str, AnyModel]] = [(MAIN, model)]
    for method in getattr(manifest, "methods", ()):
        if isinstance(method, LinearMethod):
            recipe = method.train or model.train
            wanted.append((linear_role(method), LinearModel(arch="linear", train=recipe)))
    refs: list[ModelRef] = []
    tasks: list[Task] = []
    digests: dict[str, str] = {}
    for role, spec in wanted:
        if spec.train is None:
            refs.append(ModelRef(role, weights_digest(spec, store), False))
            continue
        data = {name: indexes.get(part) for name, part in _training_sets(spec.train)}
        digests |= {f"{role}/{name}": part.digest() for name, part in data.items()}
        digest = recipe_digest(
            spec, {name: part.digest() for name, part in data.items()}, preprocess, shape, classes
        )
        refs.append(ModelRef(role, digest, True))
        tasks.append(_train_task(role, spec, digest, data))
    return refs, tasks, digests


def _training_sets(train: TrainSpec) -> list[tuple[str, AnyData]]:
    sets = [("train", train.data)]
    return sets if train.test is None else [*sets, ("test", train.test)]


def _train_task(role: str, spec: AnyModel, digest: str, data: dict[str, DataIndex]) -> Task:
    payload = {
        "role": role,
        "digest": digest,
        "model": spec.model_dump(mode="json"),
        "data": {name: part.to_json() for name, part in data.items()},
    }
    key = "model" if role == MAIN else role.replace(":", "-")
    return Task(TRAIN_STAGE, key, data["train"].rows, payload)


def _pools(
    manifest: AttributeManifest, indexes: _Indexes
) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Per method with a 'sample' baseline: the digest of the pool's source, and its rows."""
    pools = {}
    for method in manifest.methods:
        baseline = getattr(method, "baseline", None)
        if not isinstance(baseline, SampleBaseline):
            continue
        index = indexes.get(baseline.data or manifest.data)
        count = min(baseline.count, index.rows)
        shards = sample_shards(index, count, derive_seed(manifest.seed, "pool", count))
        pools[method_id(method)] = (index.digest(), [shard.to_json() for shard in shards])
    return pools
