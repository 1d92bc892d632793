"""Whether the parts of an audit fit each other, once data and models are known."""

from __future__ import annotations

from gradattr.data.registry import input_shape
from gradattr.data.types import DataIndex
from gradattr.errors import DataError, MethodError, ModelError
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.work.methods import stand_in_requests
from gradattr.work.planning.checks import check_class_names, check_method
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace
from gradattr.work.planning.trainings import num_classes


def check_audit(
    manifest: DiffRoarManifest,
    data: dict[str, DataIndex],
    space: InputSpace,
    indexes: Indexes,
) -> None:
    """Raise DataError, ModelError or MethodError where data, models, masks and methods
    contradict each other. ``data`` holds the indexes of 'train' and 'test'."""
    _check_data(manifest, data, space)
    for name, model in manifest.models.items():
        classes = num_classes(model, data["train"], indexes)
        if classes != space.classes:
            raise ModelError(
                f"models.{name} has {classes} classes, the first base model {space.classes}; an "
                "audit compares models of one data set"
            )
    value = manifest.mask.value
    if isinstance(value, list) and len(value) not in (1, space.shape[0]):
        raise MethodError(
            f"mask.value has {len(value)} numbers, the model's input has {space.shape[0]} channels"
        )
    for method in manifest.methods:
        check_method(method, manifest.target, data["train"], space.classes, space.preprocess)
    stand_in_requests(manifest, space.shape, space.classes)


def _check_data(manifest: DiffRoarManifest, data: dict[str, DataIndex], space: InputSpace) -> None:
    for name, index in data.items():
        if index.num_classes is None:
            raise DataError(f"{_key(name)}: the data has no labels; retraining needs them")
        if index.num_classes > space.classes:
            raise DataError(
                f"{_key(name)}: {index.num_classes} classes, but the models have {space.classes} "
                "outputs"
            )
    shape = input_shape(manifest.test, data["test"], space.preprocess)
    if shape != space.shape:
        raise DataError(
            f"test: images of {'x'.join(map(str, shape))}, the training set's are "
            f"{'x'.join(map(str, space.shape))}; set preprocess.resize or crop"
        )
    check_class_names(data["test"], data["train"], "test")


def _key(split: str) -> str:
    return "data" if split == "train" else split
