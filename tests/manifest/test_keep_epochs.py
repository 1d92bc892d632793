"""``keep_epochs``: what may be asked for, and that recipes without it are written as before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.errors import ManifestError
from gradattr.manifest.kinds import KINDS
from gradattr.manifest.loading import parse_manifest, resolved

MANIFEST = """\
kind: train
name: teacher
model:
  arch: linear
  train:
    data: digits
    epochs: 5
"""


def _with(asked: str) -> str:
    return f"{MANIFEST}    keep_epochs: {asked}\n"


@pytest.mark.parametrize("asked", ["[1]", "[5]", "[1, 2, 3, 4, 5]", "[]"])
def test_epochs_of_the_training(asked: str) -> None:
    train = parse_manifest(_with(asked)).model.train
    assert train is not None
    assert train.keep_epochs == json.loads(asked)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("[2, 1]", "keep_epochs: give the epochs in ascending order, each once"),
        ("[1, 1]", "keep_epochs: give the epochs in ascending order, each once"),
        ("[1, 6]", "keep_epochs: epoch 6 is never run: the training has 5 epochs"),
        ("[0]", r"keep_epochs\[0\]"),
        ("[1.5]", r"keep_epochs\[0\]"),
        ("3", "keep_epochs"),
        ("all", "keep_epochs"),
    ],
)
def test_what_is_no_epoch_of_the_training(asked: str, expected: str) -> None:
    with pytest.raises(ManifestError, match=f"^manifest.yaml:8:.*model.train.{expected}"):
        parse_manifest(_with(asked))


def test_a_faulty_number_of_epochs_is_told_alone() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(_with("[1, 6]").replace("epochs: 5", "epochs: 0", 1))
    assert str(caught.value).count("\n") == 0
    assert "model.train.epochs" in str(caught.value)


def test_it_is_no_part_of_a_bare_recipe() -> None:
    """Retrainings of an audit keep no epochs."""
    text = """\
kind: diffroar
name: audit
data: digits
test: digits
models: {a: {arch: linear, train: {}}}
retrain: {keep_epochs: [1]}
"""
    with pytest.raises(ManifestError, match="keep_epochs"):
        parse_manifest(text)


def test_written_down_only_where_it_is_asked_for() -> None:
    assert "keep_epochs" not in resolved(parse_manifest(MANIFEST))["model"]["train"]
    assert parse_manifest(MANIFEST) == parse_manifest(_with("[]"))
    written = resolved(parse_manifest(_with("[2, 5]")))
    assert written["model"]["train"]["keep_epochs"] == [2, 5]


@settings(max_examples=30, deadline=None)
@given(asked=st.sets(st.integers(1, 5)))
def test_there_and_back(asked: set[int]) -> None:
    manifest: Any = parse_manifest(_with(str(sorted(asked))))
    assert KINDS["train"].model_validate(manifest.model_dump(mode="json")) == manifest
    assert KINDS["train"].model_validate_json(manifest.model_dump_json()) == manifest
