"""Labels that are permuted on purpose: where that may be asked, and what it leaves alone."""

from __future__ import annotations

import pytest

from gradattr.errors import ManifestError
from gradattr.manifest.loading import parse_manifest
from gradattr.manifest.model import TrainSpec

DATA = {"format": "digits"}
TFA = """
kind: tfa
name: who
data: digits
queries: {data: {format: digits, split: test}}
model: {arch: linear, train: {permute_labels: 3}}
scores: [grad_cos]
"""


def test_a_recipe_without_it_is_what_it_was() -> None:
    """The digest of a trained model is that of its recipe: those in stores stay valid."""
    assert "permute_labels" not in TrainSpec.model_validate({"data": DATA}).model_dump()
    permuted = TrainSpec.model_validate({"data": DATA, "permute_labels": 0})
    assert permuted.model_dump()["permute_labels"] == 0


def test_training_examples_are_not_asked_about_labels_that_nobody_learned() -> None:
    with pytest.raises(ManifestError, match="permute_labels: the model would learn other labels"):
        parse_manifest(TFA, file="who.yaml")
    parse_manifest(TFA.replace("permute_labels: 3", "epochs: 3"), file="who.yaml")


@pytest.mark.parametrize("word", ["shuffle_labels", "random_labels", "permute_label"])
def test_other_words_for_it(word: str) -> None:
    text = f"kind: train\nname: t\nmodel: {{arch: linear, train: {{data: digits, {word}: 1}}}}\n"
    with pytest.raises(ManifestError, match="permute_labels"):
        parse_manifest(text, file="t.yaml")
