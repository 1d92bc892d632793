"""What an audit consists of: schemes, learners, trials and their seeds."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from gradattr.errors import ModelError
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.storage.layout import RunPaths
from gradattr.work.diffroar.design import (
    base_models,
    learners,
    ranker_methods,
    scheme_learners,
    schemes,
    trial_seeds,
    trials,
)

MLP = {"arch": "mlp", "hidden": [8], "train": {"epochs": 3}}
ROBUST = {**MLP, "train": {"epochs": 3, "adversary": {"norm": "l2", "eps": 0.5}}}
WIDE = {"arch": "mlp", "hidden": [16], "train": {"epochs": 3}}


def audit(**changes: Any) -> DiffRoarManifest:
    value: dict[str, Any] = {
        "kind": "diffroar",
        "name": "t",
        "data": {"format": "digits", "split": "train"},
        "test": {"format": "digits", "split": "test"},
        "models": {"standard": MLP, "robust": ROBUST},
        "levels": [0.1, 0.5, 1.0],
        "seeds": 2,
    }
    return DiffRoarManifest.model_validate(value | changes)


def test_schemes_are_methods_on_base_models_and_the_baselines() -> None:
    found = schemes(audit(methods=["saliency", {"name": "smoothgrad", "id": "sg"}]))
    assert [scheme.scheme for scheme in found] == [
        "standard/saliency", "standard/sg", "robust/saliency", "robust/sg", "random", "linear",
    ]  # fmt: skip
    assert [scheme.ranker for scheme in found] == [
        "standard", "standard", "robust", "robust", "random", "linear",
    ]  # fmt: skip
    assert [method.name for method in ranker_methods(audit(), "linear")] == ["saliency"]
    assert ranker_methods(audit(), "random") == []


def test_a_learner_is_the_architecture_with_the_recipe_but_without_the_adversary() -> None:
    shared = learners(audit())
    assert list(shared) == ["standard"]
    assert shared["standard"].train is not None
    assert shared["standard"].train.adversary is None
    assert {learner for _, learner in scheme_learners(audit())} == {"standard"}
    both = audit(models={"standard": MLP, "wide": WIDE})
    assert list(learners(both)) == ["standard", "wide"]
    judged = [(scheme.scheme, learner) for scheme, learner in scheme_learners(both)]
    assert judged == [
        ("standard/saliency", "standard"),
        ("wide/saliency", "wide"),
        ("random", "standard"),
        ("random", "wide"),
        ("linear", "standard"),
        ("linear", "wide"),
    ]


def test_the_recipe_under_retrain_counts_for_every_learner() -> None:
    robust_again = {"epochs": 7, "adversary": {"norm": "linf", "eps": 0.1}}
    found = learners(audit(retrain=robust_again))["standard"].train
    assert found is not None
    assert found.epochs == 7
    assert found.adversary is not None
    assert found.adversary.norm == "linf"


def test_weights_of_a_file_are_not_what_a_learner_starts_from() -> None:
    model = {"arch": "mlp", "hidden": [8], "weights": "w.safetensors"}
    manifest = audit(models={"given": model}, retrain={"epochs": 3})
    learner = learners(manifest)["given"]
    assert learner.weights is None
    assert base_models(manifest)["given"].weights == "w.safetensors"


def test_the_linear_baseline_must_know_how_to_be_trained() -> None:
    model = {"arch": "mlp", "hidden": [8], "weights": "w.safetensors"}
    manifest = audit(models={"given": model}, retrain=False)
    with pytest.raises(ModelError, match="remove it from 'baselines'"):
        base_models(manifest)
    assert list(base_models(audit(models={"given": model}, retrain=False, baselines=["random"])))


def test_every_cell_is_done_once_and_level_one_is_shared() -> None:
    manifest = audit(roar=True)
    found = trials(manifest)
    cells = [(t.scheme, t.learner, t.variant, t.level, t.arm, t.seed) for t in found]
    assert len(set(cells)) == len(cells)
    assert [trial.row for trial in found] == list(range(len(found)))
    counts = Counter(trial.variant for trial in found)
    # 4 schemes x 2 levels below 1 x 2 arms x 2 seeds, and level 1 once for all of them.
    assert counts["retrain"] == 4 * 2 * 2 * 2 + 2 * 2
    # The random scheme's masks say nothing of the class.
    assert counts["mask_only"] == 3 * 2 * 2 * 2
    assert counts["roar"] == 4 * 2 * 2
    shared = [trial for trial in found if trial.level == 1]
    assert {trial.scheme for trial in shared} == {None}
    assert {trial.variant for trial in shared} == {"retrain"}


def test_trials_of_a_scheme_follow_each_other() -> None:
    order = [trial.scheme for trial in trials(audit(roar=True)) if trial.scheme is not None]
    assert sum(one != other for one, other in pairwise(order)) == 3


def test_keys_are_unique_names_in_the_store() -> None:
    names = {"a.b-c": MLP, "A_+1": WIDE}
    found = trials(audit(models=names, roar=True, levels=[0.025, 0.5, 1.0]))
    keys = [trial.key for trial in found]
    assert len(set(keys)) == len(keys)
    for key in keys:
        RunPaths("run").record("trial", key)
    assert "00000-a.b-c=saliency-k2.5-top-s0" in keys


@pytest.mark.parametrize("paired", ["weights", "all", "none"])
def test_what_the_arms_of_a_pair_share(paired: str) -> None:
    manifest = audit(paired=paired)
    retrained = [t for t in trials(manifest) if t.variant == "retrain"]
    pairs = {(t.scheme, t.level, t.seed, t.arm): trial_seeds(manifest, t) for t in retrained}
    for (scheme, level, seed, arm), (weights, order) in pairs.items():
        other_weights, other_order = pairs[scheme, level, seed, "bottom" if arm == "top" else "top"]
        assert (weights == other_weights) == (paired != "none")
        assert (order == other_order) == (paired == "all")
    # Schemes are compared under the same conditions, seeds are not.
    assert (
        pairs["standard/saliency", 0.1, 0, "top"]
        == pairs["random", 0.1, 0, "top"]
        != pairs["random", 0.1, 1, "top"]
    )


def test_without_retraining_there_is_one_evaluation_per_scheme_and_base_model() -> None:
    found = trials(audit(retrain=False, mask_only=True, roar=True))
    assert {trial.variant for trial in found} == {"no_retrain"}
    assert [(t.scheme, t.learner) for t in found] == [
        ("standard/saliency", "standard"),
        ("robust/saliency", "robust"),
        ("random", "standard"),
        ("random", "robust"),
        ("linear", "standard"),
        ("linear", "robust"),
    ]
