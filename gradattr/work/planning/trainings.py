"""The models of a plan: which weights they have, or which tasks train them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradattr.data.types import DataIndex
from gradattr.errors import DataError
from gradattr.manifest.data import AnyData, Preprocess
from gradattr.manifest.model import AnyModel, PythonModel, TrainSpec
from gradattr.models import published_classes, recipe_digest, weights_digest
from gradattr.models.python_factory import factory_digest
from gradattr.plan import Stage, Task
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import MAIN, ModelRef
from gradattr.work.planning.indexes import Indexes

TRAIN_STAGE = "train"


@dataclass(frozen=True)
class Trainings:
    """What a plan needs to know of its models."""

    refs: tuple[ModelRef, ...]
    tasks: tuple[Task, ...]
    """Those that train the models which have no weights yet."""
    digests: dict[str, str]
    """'<role>/train' and '<role>/test': content digests of what is trained on."""
    sources: dict[str, str]
    """The user's own factories: name -> sha256 of the source file."""

    def stages(self) -> tuple[Stage, ...]:
        """The training stage, if there is anything to train."""
        if not self.tasks:
            return ()
        return (Stage(TRAIN_STAGE, self.tasks, tables=("training",), expected_rows={}),)

    def inputs(self) -> dict[str, dict[str, str]]:
        """Their part of a plan's inputs."""
        models = {ref.role: ref.digest for ref in self.refs}
        return {"models": models, "training_data": self.digests}


def plan_trainings(
    models: Mapping[str, AnyModel],
    preprocess: Preprocess,
    shape: tuple[int, int, int],
    classes: int,
    store: ObjectStore,
    indexes: Indexes,
) -> Trainings:
    """Identify every model (by role), and make the tasks that train those with a 'train' block."""
    refs: list[ModelRef] = []
    tasks: list[Task] = []
    digests: dict[str, str] = {}
    for role, spec in models.items():
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
    sources = {
        spec.factory: factory_digest(spec)
        for spec in models.values()
        if isinstance(spec, PythonModel)
    }
    return Trainings(tuple(refs), tuple(tasks), digests, sources)


def num_classes(model: AnyModel, index: DataIndex, indexes: Indexes) -> int:
    """Outputs of a model: what it says itself, its published weights, its training data, or the
    data it is applied to. Raises DataError if none of them knows."""
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


def _training_sets(train: TrainSpec) -> list[tuple[str, AnyData]]:
    sets = [("train", train.data)]
    return sets if train.test is None else [*sets, ("test", train.test)]


def _train_task(role: str, spec: AnyModel, digest: str, data: dict[str, DataIndex]) -> Task:
    assert spec.train is not None
    payload = {
        "role": role,
        "digest": digest,
        "model": spec.model_dump(mode="json"),
        "data": {name: part.to_json() for name, part in data.items()},
        "workers": spec.train.workers,
    }
    key = "model" if role == MAIN else role.replace(":", "-")
    return Task(TRAIN_STAGE, key, data["train"].rows, payload)
