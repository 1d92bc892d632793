"""Whether a manifest's parts fit each other, once data and model are known."""

from __future__ import annotations

from gradattr.data.types import DataIndex
from gradattr.errors import DataError, MethodError
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.baselines import MeanBaseline
from gradattr.manifest.data import Preprocess
from gradattr.manifest.method_base import Target
from gradattr.manifest.methods import MethodSpec
from gradattr.work.context import method_id
from gradattr.work.methods import stand_in_requests


def check_fit(
    manifest: AttributingManifest,
    index: DataIndex,
    trained_on: DataIndex | None,
    preprocess: Preprocess,
    shape: tuple[int, int, int],
    classes: int,
) -> None:
    """Raise DataError or MethodError where data, model, targets and methods contradict each
    other. ``trained_on`` is the training set, where the run trains the model."""
    if index.num_classes is not None and index.num_classes > classes:
        raise DataError(
            f"data: {index.num_classes} classes, but the model has {classes} outputs; "
            "set model.num_classes, or use data with the model's classes"
        )
    if trained_on is not None:
        check_class_names(index, trained_on, "data")
    for method in manifest.methods:
        check_method(method, manifest.target, index, classes, preprocess)
    # The mathematics has the last word on every parameter.
    stand_in_requests(manifest, shape, classes)


def check_class_names(index: DataIndex, trained_on: DataIndex, key: str) -> None:
    """Raise DataError if a label means another class than in the training data."""
    if trained_on.class_names is None or index.class_names is None:
        return
    for label, (ours, theirs) in enumerate(
        zip(index.class_names, trained_on.class_names, strict=False)
    ):
        if ours != theirs:
            # A folder that lacks one class would shift all labels after it, silently.
            raise DataError(
                f"{key}: label {label} is '{ours}', but in the model's training data it is "
                f"'{theirs}'; state the same 'classes' for both, in the same order"
            )


def check_method(
    method: MethodSpec,
    default_target: Target,
    index: DataIndex,
    classes: int,
    preprocess: Preprocess,
) -> None:
    """Raise MethodError or DataError if a method's target or baseline cannot be."""
    target = default_target if method.target is None else method.target
    if isinstance(target, int) and target >= classes:
        raise MethodError(
            f"method '{method_id(method)}': target {target}: the model has classes 0 to "
            f"{classes - 1}"
        )
    if str(target).endswith("_true") and index.num_classes is None:
        raise DataError(
            f"method '{method_id(method)}' explains the true class, but the data has no "
            "labels; use target 'logit_pred', or give the data labels"
        )
    _check_baseline(method, preprocess)


def _check_baseline(method: MethodSpec, preprocess: Preprocess) -> None:
    if isinstance(getattr(method, "baseline", None), MeanBaseline) and preprocess.mean is None:
        raise MethodError(
            f"method '{method_id(method)}': baseline 'mean' is the mean that pre-processing "
            "subtracts; state preprocess.mean and preprocess.std"
        )
