"""Whether the parts of an audit fit each other, once data and models are known; and what of it can
be carried out, but says little."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from gradattr.data.registry import input_shape
from gradattr.data.types import DataIndex
from gradattr.errors import DataError, MethodError, ModelError
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.retraining.ranks import kept_count
from gradattr.work.context import RunContext
from gradattr.work.diffroar.design import mask_fill
from gradattr.work.diffroar.rank import bins_shape
from gradattr.work.methods import stand_in_requests
from gradattr.work.planning.checks import check_class_names, check_method
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepared import InputSpace
from gradattr.work.planning.trainings import num_classes


def check_diffroar(
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
    _check_mask(manifest, space)
    d = _coordinates(manifest, space.shape)
    for at, level in enumerate(manifest.levels):
        if kept_count(d, level) == 0:
            raise MethodError(
                f"levels[{at}]: {level:g} of {d} {_unit(manifest)} keeps none; one of them is "
                f"{1 / d:.3g}"
            )
    for method in manifest.methods:
        check_method(method, manifest.target, data["train"], space.classes, space.preprocess)
    stand_in_requests(manifest, space.shape, space.classes)


def diffroar_notes(context: RunContext) -> list[str]:
    """What somebody should know before hours are spent on it, though it is no mistake."""
    manifest, notes = context.diffroar_manifest, []
    levels, d = manifest.levels, _coordinates(context.diffroar_manifest, context.shape)
    retrained = manifest.retrain is not False
    if retrained and 1.0 not in levels:
        notes.append("levels has no 1.0: there will be no noise floor")
    if retrained and manifest.seeds == 1:
        notes.append("seeds is 1: there will be no intervals, so every verdict is 'undecided'")
    for lower, upper in pairwise(levels):
        if kept_count(d, lower) == kept_count(d, upper):
            notes.append(
                f"levels {lower:g} and {upper:g} keep the same {kept_count(d, upper)} of {d} "
                f"{_unit(manifest)}: the same trials twice"
            )
    train, test = (DataIndex.from_json(context.indexes[name]) for name in ("train", "test"))
    if train.digest() == test.digest():
        notes.append("test is the same data as 'data': accuracies will be those of training")
    asked = [manifest.target, *(getattr(method, "target", None) for method in manifest.methods)]
    told = sorted({str(target) for target in asked if str(target).endswith("_true")})
    if told:
        notes.append(
            f"target {' and '.join(told)} looks at the labels, of the test images too: masks may "
            "tell them (see the control, mask_only)"
        )
    return notes


def _coordinates(manifest: DiffRoarManifest, shape: tuple[int, int, int]) -> int:
    return math.prod(bins_shape(manifest, shape))


def _unit(manifest: DiffRoarManifest) -> str:
    return "pixels" if manifest.mask.per_pixel else "coordinates"


def _check_mask(manifest: DiffRoarManifest, space: InputSpace) -> None:
    value = manifest.mask.value
    if isinstance(value, list) and len(value) not in (1, space.shape[0]):
        raise MethodError(
            f"mask.value has {len(value)} numbers, the model's input has {space.shape[0]} channels"
        )
    fill = mask_fill(manifest.mask, space.preprocess)
    if max(map(abs, fill)) > torch.finfo(torch.float32).max:
        raise MethodError(
            f"mask.value {value} is {max(fill, key=abs):g} in the model's input, which 32 bits "
            "cannot hold; give a number near those of the data"
        )


def _check_data(manifest: DiffRoarManifest, data: dict[str, DataIndex], space: InputSpace) -> None:
    for name, index in data.items():
        if index.num_classes is None:
            raise DataError(f"{_key(name)}: the data has no labels; retraining needs them")
        if name == "train" and index.num_classes < 2:
            raise DataError("data: every image has the same label; retraining needs two classes")
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
