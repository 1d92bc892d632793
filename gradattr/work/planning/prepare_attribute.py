"""The plan of ``kind: attribute``: train what has no weights, then one task per shard."""

from __future__ import annotations

from gradattr.data.registry import input_shape, make_shards
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.methods import LinearMethod
from gradattr.manifest.model import AnyModel, LinearModel
from gradattr.models import weights_preprocess
from gradattr.plan import Stage, Task
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import MAIN, linear_role
from gradattr.work.planning.checks import check_fit
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace, Prepared, assemble_run, plan_pools
from gradattr.work.planning.trainings import num_classes, plan_trainings

ATTRIBUTE_STAGE = "attribute"


def prepare_attribute(
    manifest: AttributeManifest, store: ObjectStore, indexes: Indexes
) -> Prepared:
    """Look at data and model, and plan. Raises DataError, ModelError or MethodError."""
    index = indexes.get(manifest.data)
    if manifest.preprocess == "weights":
        preprocess = weights_preprocess(manifest.model)
    else:
        preprocess = manifest.preprocess
    shape = input_shape(manifest.data, index, preprocess)
    classes = num_classes(manifest.model, index, indexes)
    trained_on = None if manifest.model.train is None else indexes.get(manifest.model.train.data)
    check_fit(manifest, index, trained_on, preprocess, shape, classes)
    trainings = plan_trainings(_models(manifest), preprocess, shape, classes, store, indexes)
    space = InputSpace(shape, classes, preprocess)
    pools = plan_pools(manifest, indexes, space)
    inputs = {
        "data": {"digest": index.digest(), "format": index.format, "rows": index.rows}
        | ({"masks": True} if manifest.data.has_masks else {}),
        **trainings.inputs(),
        "pools": {name: pool_digest for name, (pool_digest, _) in pools.items()},
        **space.inputs(index),
    }
    expected = _expected_rows(manifest, index.rows)
    attribute = Stage(
        ATTRIBUTE_STAGE,
        tuple(
            Task(ATTRIBUTE_STAGE, f"{shard.index:05d}", shard.rows, {"shard": shard.to_json()})
            for shard in make_shards(index, manifest.shard_rows)
        ),
        tables=(*expected, "errors"),
        expected_rows=expected,
    )
    stages = (*trainings.stages(), attribute)
    return assemble_run(manifest, store, inputs, stages, space, trainings, pools=pools)


def _expected_rows(manifest: AttributeManifest, rows: int) -> dict[str, int]:
    per_method = rows * len(manifest.methods)
    expected = {"predictions": rows, "attributions": per_method}
    if manifest.store.maps != "none":
        expected["maps"] = per_method
    if manifest.measured_levels:
        expected["leakage"] = per_method * len(manifest.measured_levels)
    return expected


def _models(manifest: AttributeManifest) -> dict[str, AnyModel]:
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
