"""The model of permuted labels: how it is trained, and what its maps are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.robustness_metrics import LabelRandomisationMetric
from gradattr.metrics.randomisation import other_model
from gradattr.models import read_trained
from gradattr.report.summary import summarise
from gradattr.work.context import MAIN
from gradattr.work.evaluate.label_model import label_role, label_spec
from gradattr.work.planning.prepare import prepare
from gradattr.work.planning.prepare_evaluate import judged_models
from tests.small_evaluations import direct, evaluation, finished, scores
from tests.small_runs import one_thread, weights

__all__ = ["evaluation", "one_thread", "weights"]

Make = Callable[..., EvaluateManifest]

DATA = {"format": "digits", "limit": 40}
TRAIN = {"data": DATA, "optimizer": "adam", "lr": 0.01, "epochs": 120, "weight_decay": 0, "seed": 3}
MLP = {"arch": "mlp", "hidden": [32], "train": TRAIN | {"test": DATA | {"split": "test"}}}


def the_metric(manifest: EvaluateManifest) -> LabelRandomisationMetric:
    (metric,) = manifest.metrics
    assert isinstance(metric, LabelRandomisationMetric)
    return metric


def test_maps_of_the_model_of_permuted_labels(evaluation: Make) -> None:
    manifest = evaluation("label_randomisation", model=MLP)
    metric = the_metric(manifest)
    spec, role = label_spec(manifest, metric), "labels:label_randomisation"
    found = finished(manifest)
    values, by_hand, other = scores(found), direct(manifest), direct(manifest, role, spec)
    images = (by_hand.evaluator, other.evaluator, by_hand.x, by_hand.requests)
    for request, change in zip(
        by_hand.requests, other_model(*images, **by_hand.settings), strict=True
    ):
        for name in ("spearman", "spearman_magnitude", "ssim", "top_intersection"):
            own = values[f"label_randomisation_{name}", request.id]
            expected = getattr(change, name).numpy()
            np.testing.assert_allclose(own, expected, atol=2e-4, err_msg=name)
    assert values["label_randomisation_spearman", "gradient"].mean() < 0.7
    # It looks at no model, and a check that did not notice would be worth nothing.
    np.testing.assert_allclose(values["label_randomisation_spearman", "random"], 1)
    # All shards have loaded the weights that the run trained.
    trained = {record.extra["role"]: record.extra["models"] for record in _trainings(found)}
    assert set(trained) == {MAIN, role}
    judged = [r.extra["models"] for r in found.commit.records if r.stage == "judge"]
    assert all(one == trained[MAIN] | trained[role] for one in judged)
    assert not [note for note in summarise(found)["notes"] if "permuted" in note]


def _trainings(found: Any) -> list[Any]:
    return [record for record in found.commit.records if record.stage == "train"]


def test_its_labels_are_the_same_ones_on_other_images(evaluation: Make) -> None:
    """What it has learned: every label as often as before, few where they were, and by heart."""
    manifest = evaluation("label_randomisation", model=MLP)
    finished(manifest)
    metric = the_metric(manifest)
    other = direct(manifest, label_role(metric), label_spec(manifest, metric))
    learned = direct(evaluation("cost", model=MLP, data=DATA))
    guesses = other.evaluator.logits(learned.x).argmax(1)
    assert (guesses == learned.labels).float().mean() < 0.4
    assert torch.equal(guesses.bincount(minlength=10), learned.labels.bincount(minlength=10))
    assert (learned.evaluator.logits(learned.x).argmax(1) == learned.labels).all()


def test_the_recipe_is_the_models_own_or_the_metrics(evaluation: Make, weights: Any) -> None:
    own = evaluation({"metric": "label_randomisation", "id": "sanity"}, model=MLP)
    spec = judged_models(own)["labels:sanity"]
    assert spec.train is not None
    assert spec.train.test is None
    assert own.model.train is not None
    kept = {"permute_labels", "test"}
    assert spec.train.model_dump(exclude=kept) == own.model.train.model_dump(exclude=kept)
    assert spec.train.permute_labels == own.seed == 5
    recipe = TRAIN | {"epochs": 2, "permute_labels": 9}
    with_weights = evaluation({"metric": "label_randomisation", "train": recipe})
    spec = judged_models(with_weights)["labels:label_randomisation"]
    assert (spec.weights, spec.arch) == (None, "cnn")
    assert spec.train is not None
    assert (spec.train.permute_labels, spec.train.epochs) == (9, 2)
    stages = {stage.name: stage for stage in prepare(with_weights).plan.stages}
    assert [task.key for task in stages["train"].tasks] == ["labels-label_randomisation"]


def test_other_permutations_are_other_models(evaluation: Make) -> None:
    digests = set()
    for seed in (0, 1, None):
        train = TRAIN if seed is None else TRAIN | {"permute_labels": seed}
        manifest = evaluation("cost", model=MLP | {"train": train})
        digests.add(prepare(manifest).context.model(MAIN).digest)
    assert len(digests) == 3


def test_a_model_that_has_not_learned_its_labels_is_told_of(evaluation: Make) -> None:
    recipe = TRAIN | {"epochs": 2, "lr": 0.001}
    metric = {"metric": "label_randomisation", "id": "sanity", "train": recipe}
    found = finished(evaluation(metric, model=MLP, methods=["gradient"]))
    (note,) = [note for note in summarise(found)["notes"] if "permuted" in note]
    record = next(r for r in _trainings(found) if r.extra["role"] == "labels:sanity")
    trained = read_trained(found.store, record.extra["model"]["digest"])
    assert trained is not None
    accuracy = trained.metrics["history"][-1]["accuracy"]
    assert note.startswith(
        f"sanity: the model of permuted labels got {accuracy:.1%} of them right in its last "
        "epoch (of 2); below 95%"
    )


def test_nothing_says_how_it_is_trained(evaluation: Make) -> None:
    with pytest.raises(ValueError, match="give it a 'train' block"):
        evaluation("label_randomisation")
