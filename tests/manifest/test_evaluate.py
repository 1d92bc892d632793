"""Kind evaluate: metrics by name or with parameters, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.metrics import curves_of, measures_of

VALUE: dict[str, Any] = {
    "kind": "evaluate",
    "name": "judged",
    "data": {"format": "digits"},
    "model": {"arch": "linear", "weights": "w.safetensors"},
    "methods": ["saliency", "random"],
    "metrics": ["deletion"],
}


def manifest(**changes: Any) -> EvaluateManifest:
    return EvaluateManifest.model_validate(VALUE | changes)


@pytest.mark.parametrize(
    ("metric", "names", "better"),
    [
        ("deletion", ["deletion_auc"], [False]),
        ({"metric": "insertion", "id": "from_black"}, ["from_black_auc"], [True]),
        ("path_monotonicity", ["path_monotonicity"], [True]),
        ("infidelity", ["infidelity", "infidelity_scaled"], [False, False]),
        (
            {"metric": "stability", "steps": [2, 9]},
            ["stability_2_spearman", "stability_2_top_intersection", "stability_2_l2"],
            [True, True, False],
        ),
        ("cost", ["cost_evaluations"], [False]),
        ("agreement", [], []),
    ],
)
def test_a_metric_is_named_after_its_id_and_what_it_measures(
    metric: Any, names: list[str], better: list[bool]
) -> None:
    asked = manifest(metrics=[metric])
    found = measures_of(asked.metrics[0])
    assert [one.name for one in found] == asked.measures == names
    assert [one.higher_is_better for one in found] == better


def test_a_region_is_to_be_found_or_to_be_avoided() -> None:
    data = {"format": "digits", "patch": {"size": 2}}
    for better, expected in ((None, None), ("inside", True), ("outside", False)):
        metric = {"metric": "localisation", "better": better}
        found = measures_of(manifest(data=data, metrics=[metric]).metrics[0])
        assert {one.higher_is_better for one in found} == {expected}


def test_curves_say_where_their_steps_are() -> None:
    asked = manifest(metrics=[{"metric": "deletion", "steps": 4}, "road", "randomisation"])
    gone, road, random = (curves_of(metric) for metric in asked.metrics)
    assert [(one.name, one.x) for one in gone] == [("deletion", (0, 0.25, 0.5, 0.75, 1))]
    assert {one.name for one in road} >= {"road_morf", "road_lerf"}
    assert road[0].x is not None and len(road[0].x) == 9
    assert all(one.x is None for one in random)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": ["deletion", "deletion"]}, "deletion.*more than once.*'id'"),
        ({"metrics": ["deletion", {"metric": "insertion", "id": "deletion"}]}, "more than once"),
        ({"metrics": []}, "at least 1"),
        ({"target": "loss_true"}, "'saliency' explains the loss"),
        ({"methods": [{"name": "saliency", "target": "loss_pred"}]}, "explains the loss"),
        ({"metrics": ["agreement"], "methods": ["saliency"]}, "at least two"),
        ({"metrics": ["localisation"]}, "needs data with masks"),
        ({"metrics": ["label_randomisation"]}, "trains a model on permuted labels"),
        ({"metrics": [{"metric": "deletion", "kernel": 4}]}, "odd number"),
        ({"metrics": [{"metric": "stability", "steps": [5, 1]}]}, "ascending"),
        ({"metrics": [{"metric": "attack", "candidates": 0, "steps": 0}]}, "nothing would be"),
        ({"metrics": [{"metric": "road", "percentages": [20, 10]}]}, "ascending"),
        ({"metrics": [{"metric": "cost", "precision": "bf16"}]}, "precision"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){words}"):
        manifest(**changes)


def test_a_run_brings_data_model_and_methods_along() -> None:
    value = {key: VALUE[key] for key in ("kind", "name", "metrics")}
    asked = EvaluateManifest.model_validate({**value, "attributions": "run:maps-0123abcd"})
    again = EvaluateManifest.model_validate(asked.model_dump(mode="json"))
    assert again == asked
    with pytest.raises(ValidationError, match="data"):
        EvaluateManifest.model_validate(value)


def test_mistakes_are_named_where_they_stand(faults: Callable[..., list[str]]) -> None:
    text = """\
kind: evaluate
name: x
data: digits
model: {arch: linear, weights: w.safetensors}
methods: [saliency]
metrics:
  - deletio
  - {metric: insertion, stps: 3}
"""
    found = faults(text)
    assert len(found) == 2
    assert ":7:" in found[0] and "did you mean 'deletion'" in found[0]
    assert ":8:" in found[1] and "did you mean 'steps'" in found[1]
