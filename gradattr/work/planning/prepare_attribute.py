"""The plan of ``kind: attribute``: train what has no weights, then one task per shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradattr.data.registry import input_shape, make_shards
from gradattr.data.types import DataIndex
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.methods import LinearMethod
from gradattr.manifest.model import AnyModel, LinearModel
from gradattr.models import weights_preprocess
from gradattr.plan import Stage, Task
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import MAIN, linear_role
from gradattr.work.planning.checks import check_fit
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import (
    InputSpace,
    Pools,
    Prepared,
    assemble_run,
    plan_pools,
)
from gradattr.work.planning.trainings import Trainings, num_classes, plan_trainings

ATTRIBUTE_STAGE = "attribute"


@dataclass(frozen=True)
class Surveyed:
    """What planning has found out about an attributing manifest's data and models."""

    index: DataIndex
    space: InputSpace
    trainings: Trainings
    pools: Pools

    @property
    def rows(self) -> int:
        return self.index.rows

    def inputs(self, masks: bool) -> dict[str, Any]:
        """The plan's inputs. ``masks``: whether the data's masks matter."""
        return {
            "data": {
                "digest": self.index.digest(),
                "format": self.index.format,
                "rows": self.index.rows,
            }
            | ({"masks": True} if masks else {}),
            **self.trainings.inputs(),
            "pools": {name: pool_digest for name, (pool_digest, _) in self.pools.items()},
            **self.space.inputs(self.index),
        }


def prepare_attribute(
    manifest: AttributeManifest, store: ObjectStore, indexes: Indexes
) -> Prepared:
    """Look at data and model, and plan. Raises DataError, ModelError or MethodError."""
    found = survey(manifest, models_of(manifest), store, indexes)
    expected = expected_rows(manifest, found.rows)
    attribute = Stage(
        ATTRIBUTE_STAGE,
        shard_tasks(ATTRIBUTE_STAGE, found.index, manifest.shard_rows),
        tables=(*expected, "errors"),
        expected_rows=expected,
    )
    return assemble_run(
        manifest,
        store,
        found.inputs(manifest.data.has_masks),
        (*found.trainings.stages(), attribute),
        found.space,
        found.trainings,
        pools=found.pools,
    )


def survey(
    manifest: AttributingManifest,
    models: Mapping[str, AnyModel],
    store: ObjectStore,
    indexes: Indexes,
) -> Surveyed:
    """Look at the data, and at the models by role. Raises DataError, ModelError or MethodError."""
    index = indexes.get(manifest.data)
    if manifest.preprocess == "weights":
        preprocess = weights_preprocess(manifest.model)
    else:
        preprocess = manifest.preprocess
    shape = input_shape(manifest.data, index, preprocess)
    classes = num_classes(manifest.model, index, indexes)
    trained_on = None if manifest.model.train is None else indexes.get(manifest.model.train.data)
    check_fit(manifest, index, trained_on, preprocess, shape, classes)
    trainings = plan_trainings(models, preprocess, shape, classes, store, indexes)
    space = InputSpace(shape, classes, preprocess)
    return Surveyed(index, space, trainings, plan_pools(manifest, indexes, space))


def shard_tasks(
    stage: str, index: DataIndex, shard_rows: int, payload: Mapping[str, Any] | None = None
) -> tuple[Task, ...]:
    """A task per shard of the data, each with the shard and what is in ``payload``."""
    return tuple(
        Task(
            stage,
            f"{shard.index:05d}",
            shard.rows,
            {"shard": shard.to_json(), **(payload or {})},
        )
        for shard in make_shards(index, shard_rows)
    )


def expected_rows(manifest: AttributingManifest, rows: int) -> dict[str, int]:
    """Rows of the tables that attributing so many images writes."""
    per_method = rows * len(manifest.methods)
    expected = {"predictions": rows, "attributions": per_method}
    if manifest.store.maps != "none":
        expected["maps"] = per_method
    if manifest.measured_levels:
        expected["leakage"] = per_method * len(manifest.measured_levels)
    return expected


def models_of(manifest: AttributingManifest) -> dict[str, AnyModel]:
    """By role: the explained model, and those of the methods 'linear'."""
    models = {MAIN: manifest.model}
    for method in manifest.methods:
        if isinstance(method, LinearMethod):
            recipe = method.train
            if recipe is None and manifest.model.train is not None:
                # Weights on the way to the explained model are kept of that one only.
                recipe = manifest.model.train.model_copy(update={"keep_epochs": []})
            models[linear_role(method)] = LinearModel(arch="linear", train=recipe)
    return models
