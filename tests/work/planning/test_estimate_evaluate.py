"""What a plan says judging costs is what it does: the model's passes are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.work.attribute import loaded
from gradattr.work.evaluate import label_model, robustness
from gradattr.work.perform import perform
from gradattr.work.planning.estimate import estimate
from gradattr.work.planning.prepare import prepare
from tests.small_evaluations import IMAGES, evaluation
from tests.small_runs import one_thread, weights

__all__ = ["evaluation", "one_thread", "weights"]

Make = Callable[..., EvaluateManifest]

METHODS: list[Any] = [
    "saliency",
    "input_x_gradient",
    {"name": "integrated_gradients", "steps": 8, "baseline": "blur"},
    {"name": "blur_ig", "steps": 6},
    {"name": "smoothgrad", "samples": 5},
    {"name": "gradient_shap", "samples": 5, "baseline": "uniform"},
    "random",
]
RECIPE = {"data": {"format": "digits", "limit": 30}, "epochs": 1}
METRICS: list[Any] = [
    {"metric": "deletion", "steps": 6},
    {"metric": "insertion", "steps": 6},
    {"metric": "deletion", "steps": 6, "images": 4},
    {"metric": "mu_fidelity", "subsets": 12},
    {"metric": "road", "percentages": [20, 50]},
    {"metric": "infidelity", "samples": 11},
    {"metric": "attack", "candidates": 3, "steps": 2},
    {"metric": "sensitivity", "samples": 4},
    {"metric": "stability", "steps": [2, 5]},
    "randomisation",
    {"metric": "randomisation", "modules": ["output", "conv1"]},
    {"metric": "label_randomisation", "train": RECIPE},
]


def count(model: nn.Module, total: list[int]) -> None:
    """From now on ``total`` grows by the rows of every forward pass, and by those of every backward
    pass but the first of a forward pass."""

    def after(module: nn.Module, given: Any, logits: Tensor) -> None:
        total[0] += len(logits)
        passes = [0]

        def back(slope: Tensor) -> None:
            total[0] += len(slope) if passes[0] else 0
            passes[0] += 1

        if logits.requires_grad:
            logits.register_hook(back)  # type: ignore[no-untyped-call]

    model.register_forward_hook(after)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[EvaluateManifest], int]:
    """Evaluations that the stage 'judge' of a manifest makes, counted in the model itself."""

    def measure(manifest: EvaluateManifest) -> int:
        total = [0]

        def untuned(context: Any, model: nn.Module, *more: Any) -> tuple[PlainEvaluator, Any]:
            count(model, total)
            return PlainEvaluator(model), {}

        for room in (loaded, label_model):
            monkeypatch.setattr(room, "prepare_model", untuned)
        # Copies of the model count as it does.
        monkeypatch.setattr(robustness, "prepare_model", lambda _, m, *__: (PlainEvaluator(m), {}))
        loaded._cache.clear()
        prepared = prepare(manifest, open_store(manifest.store))
        for stage in prepared.plan.stages:
            if stage.name == "judge":
                total[0] = 0
            if stage.name == "statistics":
                break
            for task in stage.tasks:
                outcome = perform(prepared.context, task)
                assert outcome.status == "ok", outcome
        loaded._cache.clear()
        return total[0]

    return measure


def planned(manifest: EvaluateManifest, probe: bool = False) -> dict[str, Any]:
    store = open_store(manifest.store)
    report = estimate(prepare(manifest, store), store, probe=probe)
    return report | {"stages": {stage["name"]: stage for stage in report["stages"]}}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric)[:40])
def test_a_plan_predicts_what_is_evaluated(
    evaluation: Make, measured: Callable[[EvaluateManifest], int], metric: Any
) -> None:
    changes = {"methods": METHODS, "engine": {"batch_size": 16}}
    alone = measured(evaluation("cost", **changes))
    manifest = evaluation(metric, **changes)
    (line,) = planned(manifest)["metrics"]
    assert measured(manifest) - alone == pytest.approx(
        line["images"] * line["evaluations"], rel=0.1
    )


def test_shared_work_is_counted_once_and_subsets_of_images_as_such(evaluation: Make) -> None:
    stepwise = {"metric": "insertion", "steps": 5, "start": "black"}
    few = {"metric": "sensitivity", "id": "few", "samples": 2, "images": 3}
    many = {"metric": "sensitivity", "samples": 2, "images": 1000}
    deletion = {"metric": "deletion", "steps": 5}
    report = planned(evaluation(deletion, stepwise, few, many))
    lines = {line["metric"]: line for line in report["metrics"]}
    # Four methods; what the model says of the images themselves is known from making the maps.
    assert lines["deletion"]["evaluations"] == 4 * 4
    assert lines["insertion"]["evaluations"] == 4 * 4
    assert lines["deletion"]["forward_only"]
    assert (lines["few"]["images"], lines["sensitivity"]["images"]) == (3, IMAGES)
    # gradient 1, integrated gradients 6, uni 3 + 4 and its start's score; one prediction for all.
    assert lines["few"]["evaluations"] == 2 * (1 + 6 + 7 + 1)
    judged = IMAGES * (16 + 16 + 30) + 3 * 30
    assert report["stages"]["judge"]["evaluations"] == IMAGES * (1 + 6 + 7) + judged
    assert report["map_bytes"]["float32"] == IMAGES * 4 * 64 * 4


def test_methods_that_a_metric_says_nothing_of_cost_nothing(evaluation: Make) -> None:
    (line,) = planned(evaluation({"metric": "stability", "steps": [1, 10]}))["metrics"]
    assert line["methods"] == ["integrated_gradients", "uni"]
    # Each in 1 and in 10 steps, one prediction, one search of 4 and its score.
    assert line["evaluations"] == 11 + 11 + 1 + 4 + 1


def test_a_probe_times_what_is_judged(evaluation: Make) -> None:
    """More subsets take longer, and filling in pixels takes time of its own."""
    few = planned(evaluation({"metric": "mu_fidelity", "subsets": 10}), probe=True)
    many = planned(evaluation({"metric": "mu_fidelity", "subsets": 100_000}), probe=True)
    seconds = [one["stages"]["judge"]["seconds"] for one in (few, many)]
    assert 0 < 50 * seconds[0] < seconds[1]
    assert "ranking and comparing maps, other programs' load" in many["probe"]
    (road,) = planned(evaluation("road"), probe=True)["metrics"]
    assert road["evaluations"] == 2 * 9 * 4


def test_maps_of_another_run_are_made_once_more_by_metrics_that_make_maps(
    evaluation: Make, measured: Callable[[EvaluateManifest], int]
) -> None:
    here = evaluation("cost", methods=METHODS).model_dump(mode="json")
    kept = ("data", "model", "preprocess", "methods", "seed", "store", "runtime")
    maps = {key: here[key] for key in kept} | {"kind": "attribute", "name": "maps"}
    theirs = run(AttributeManifest.model_validate(maps)).run_id
    counts = []
    for metric in ("cost", {"metric": "sensitivity", "samples": 4}):
        value = {
            "kind": "evaluate",
            "name": "judged",
            "attributions": f"run:{theirs}",
            "metrics": [metric],
            "engine": {"batch_size": 16},
            "store": here["store"],
            "runtime": here["runtime"],
        }
        manifest = EvaluateManifest.model_validate(value)
        report = planned(manifest)
        assert report["map_bytes"] == {}
        counts.append((measured(manifest), report["stages"]["judge"]["evaluations"]))
    # Without metrics that need the model, it only predicts.
    assert counts[0] == (IMAGES, IMAGES)
    assert counts[1][0] == pytest.approx(counts[1][1], rel=0.1)
