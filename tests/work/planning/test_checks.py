"""Parts of a manifest that contradict each other are found before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from gradattr.data.types import DataIndex
from gradattr.errors import DataError, MethodError
from gradattr.manifest.data import Preprocess
from gradattr.work.planning.checks import check_fit


def _index(names: tuple[str, ...] | None, classes: int | None = None) -> DataIndex:
    return DataIndex("folder", 5, (), classes or (names and len(names)), names, 3, (8, 8))


def _check(manifest: Any, index: DataIndex, trained_on: DataIndex | None = None) -> None:
    check_fit(manifest, index, trained_on, Preprocess(), (3, 8, 8), 3)


def test_labels_that_mean_other_classes_are_refused(manifest: Any) -> None:
    trained = _index(("cat", "dog", "fox"))
    _check(manifest(), _index(("cat", "dog", "fox")), trained)
    _check(manifest(), _index(("cat", "dog")), trained)
    _check(manifest(), _index(None), trained)
    with pytest.raises(DataError, match=r"label 1 is .fox.*training data .*dog"):
        _check(manifest(), _index(("cat", "fox")), trained)


def test_more_classes_than_outputs_are_refused(manifest: Any) -> None:
    with pytest.raises(DataError, match="4 classes, but the model has 3 outputs"):
        _check(manifest(), _index(None, 4))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "gradient", "target": 3}, "classes 0 to 2"),
        ({"name": "integrated_gradients", "baseline": "mean"}, "preprocess.mean"),
        ({"name": "integrated_gradients", "rule": "trapezoid", "steps": 1}, "trapezoid"),
        ({"name": "integrated_gradients", "baseline": {"kind": "blur", "kernel": 4}}, "kernel 4"),
    ],
    ids=str,
)
def test_methods_that_do_not_fit_are_named(manifest: Any, method: Any, message: str) -> None:
    with pytest.raises(MethodError, match=f"method '{method['name']}'.*{message}"):
        _check(manifest(methods=[method]), _index(None, 3))


def test_a_true_class_needs_labels(manifest: Any) -> None:
    with pytest.raises(DataError, match="no labels"):
        _check(manifest(target="loss_true"), _index(None))
