"""Metrics that make maps again, as stages of a run: equal to direct calls, however it is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.metrics.attack import attack_maps
from gradattr.metrics.attack_settings import AttackSettings
from gradattr.metrics.randomisation import randomisation
from gradattr.metrics.sensitivity import sensitivity
from gradattr.metrics.stability import riemann_stability
from gradattr.runtime.driver import run
from tests.small_evaluations import IMAGES, direct, evaluation, finished, scores
from tests.small_runs import one_thread, weights

__all__ = ["evaluation", "one_thread", "weights"]

Make = Callable[..., EvaluateManifest]

ATTACK = {"metric": "attack", "candidates": 3, "steps": 2, "eps": 0.1, "top": 9}
SENSITIVITY = {"metric": "sensitivity", "samples": 3, "radius": 0.05}
STABILITY = {"metric": "stability", "steps": [1, 2, 5], "top": 9}
RANDOMISATION = {"metric": "randomisation", "top": 9}


def assert_equal(found: dict[tuple[str, str], np.ndarray], name: str, expected: Any) -> None:
    """Of every method: the values of a metric are those of a direct call."""
    for method, values in expected.items():
        np.testing.assert_allclose(found[name, method], values, atol=2e-4, err_msg=name)


def by_method(manifest: EvaluateManifest, results: Any, field: str) -> dict[str, np.ndarray]:
    names = [method.id or method.name for method in manifest.methods]
    pairs = zip(names, results, strict=True)
    return {name: getattr(one, field).numpy() for name, one in pairs}


def test_a_run_is_what_direct_calls_give(evaluation: Make) -> None:
    manifest = evaluation(ATTACK, SENSITIVITY, RANDOMISATION)
    found, by_hand = finished(manifest), direct(manifest)
    values = scores(found)
    images = (by_hand.evaluator, by_hand.x, by_hand.requests)
    settings = AttackSettings(candidates=3, steps=2, eps=0.1, top=9)
    attacked = attack_maps(*images, settings=settings, **by_hand.settings)
    for name in ("spearman", "top_intersection", "rejected"):
        assert_equal(values, f"attack_{name}", by_method(manifest, attacked, name))
    moved = sensitivity(*images, samples=3, radius=0.05, **by_hand.settings)
    for name in ("max_sensitivity", "mean_sensitivity", "local_lipschitz"):
        own = name.removeprefix("local_").removesuffix("_sensitivity")
        assert_equal(values, f"sensitivity_{own}", by_method(manifest, moved, name))
    random = randomisation(*images, seed=5, top=9, **by_hand.settings)
    for name in ("spearman", "spearman_magnitude", "ssim", "top_intersection"):
        last = [one.change._replace(**{name: getattr(one.change, name)[:, -1]}) for one in random]
        assert_equal(values, f"randomisation_{name}", by_method(manifest, last, name))
    curves = found.frame("curves")
    line = curves[(curves.method == "gradient") & (curves.curve == "randomisation_ssim")]
    line = line.sort_values("step")
    assert tuple(line.label) == random[0].stages == ("output", "hidden", "conv3", "conv2", "conv1")
    expected = random[0].change.ssim.mean(0).numpy()
    np.testing.assert_allclose(line["mean"], expected, atol=1e-4)


def test_stability_is_of_methods_that_walk_a_path(evaluation: Make) -> None:
    manifest = evaluation(STABILITY)
    found, by_hand = scores(finished(manifest)), direct(manifest)
    assert {method for _, method in found} == {"integrated_gradients", "uni"}
    requests = by_hand.requests[1:3]
    settings = {"steps": [1, 2, 5], "top": 9, **by_hand.settings}
    results = riemann_stability(by_hand.evaluator, by_hand.x, requests, **settings)
    for place, count in enumerate((1, 2)):
        for name in ("spearman", "top_intersection", "l2"):
            for request, one in zip(requests, results, strict=True):
                expected = getattr(one.change, name)[:, place].numpy()
                own = found[f"stability_{count}_{name}", request.id]
                np.testing.assert_allclose(own, expected, atol=2e-4)


def test_neither_shards_nor_batches_change_a_score(evaluation: Make) -> None:
    metrics = (ATTACK, SENSITIVITY, STABILITY, {**RANDOMISATION, "modules": ["conv1", "output"]})
    whole = scores(finished(evaluation(*metrics)))
    for shard_rows, batch_size in ((100, 3), (4, 64)):
        engine = {"batch_size": batch_size}
        other = scores(finished(evaluation(*metrics, shard_rows=shard_rows, engine=engine)))
        assert whole.keys() == other.keys()
        for key, values in whole.items():
            assert len(values) == IMAGES
            np.testing.assert_allclose(other[key], values, atol=2e-4, err_msg=str(key))


def test_a_map_that_looks_at_no_model_and_no_image_passes_robustness_and_fails_the_sanity_check(
    evaluation: Make,
) -> None:
    """Random numbers of an image's seed are the same for every model and every change of it: as
    robust as can be, which is why robustness alone says nothing; the sanity check tells."""
    values = scores(finished(evaluation(ATTACK, SENSITIVITY, RANDOMISATION)))
    for name in ("attack_spearman", "attack_top_intersection", "randomisation_spearman"):
        np.testing.assert_allclose(values[name, "random"], 1, atol=1e-12)
    np.testing.assert_allclose(values["randomisation_ssim", "random"], 1)
    assert (values["sensitivity_max", "random"] == 0).all()
    assert values["attack_spearman", "gradient"].mean() < 0.95
    assert abs(values["randomisation_spearman", "gradient"].mean()) < 0.6
    assert values["sensitivity_max", "gradient"].min() > 0


def test_maps_of_another_run_are_made_again_by_its_methods(evaluation: Make) -> None:
    """Kept as float16, they would differ from the others by their rounding alone."""
    here = evaluation(SENSITIVITY, RANDOMISATION)
    maps = {key: getattr(here, key).model_dump(mode="json") for key in ("data", "model", "runtime")}
    attributed = AttributeManifest.model_validate(
        {
            "kind": "attribute",
            "name": "maps",
            "seed": 5,
            "preprocess": {"mean": [0.3], "std": [0.4]},
            "methods": [m.model_dump(mode="json") for m in here.methods],
            "store": here.store.model_dump(mode="json") | {"maps": "float16"},
            **maps,
        }
    )
    value = {
        "kind": "evaluate",
        "name": "again",
        "attributions": f"run:{run(attributed).run_id}",
        "metrics": [SENSITIVITY, RANDOMISATION],
        "runtime": maps["runtime"],
        "store": here.store.model_dump(mode="json"),
    }
    other = scores(finished(EvaluateManifest.model_validate(value)))
    for key, values in scores(finished(here)).items():
        np.testing.assert_allclose(other[key], values, atol=2e-4, err_msg=str(key))


def test_images_of_which_a_metric_looks_at_some(evaluation: Make) -> None:
    manifest = evaluation({**SENSITIVITY, "images": 4}, SENSITIVITY | {"id": "all"})
    found = (
        finished(manifest)
        .frame("scores")
        .pivot(index="row", columns=["metric", "method"], values="value")
    )
    some, whole = found["sensitivity_max"]["gradient"], found["all_max"]["gradient"]
    assert some.notna().sum() == 4
    np.testing.assert_allclose(some.dropna(), whole[some.notna()], atol=2e-4)


def test_other_targets_are_made_again_as_they_are(evaluation: Make) -> None:
    """Of labels, of predictions and of a class in one run: the class stays at other points."""
    methods = [
        {"name": "gradient", "id": "true", "target": "logit_true"},
        {"name": "gradient", "id": "two", "target": 2},
        {"name": "integrated_gradients", "steps": 3, "target": "prob_pred"},
    ]
    manifest = evaluation(SENSITIVITY, RANDOMISATION, methods=methods)
    values, by_hand = scores(finished(manifest)), direct(manifest)
    images = (by_hand.evaluator, by_hand.x, by_hand.requests)
    settings = by_hand.settings | {"labels": by_hand.labels}
    moved = sensitivity(*images, samples=3, radius=0.05, **settings)
    assert_equal(values, "sensitivity_max", by_method(manifest, moved, "max_sensitivity"))
    random = randomisation(*images, seed=5, **settings)
    last = [one.change._replace(ssim=one.change.ssim[:, -1]) for one in random]
    assert_equal(values, "randomisation_ssim", by_method(manifest, last, "ssim"))
