"""Baselines as a run judges them: those of the maps themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradattr.attribution import Black, Noise, Unlearned, attribute
from gradattr.attribution.paths.blur_path import scale_space
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.metrics.baseline_distance import baseline_distance
from tests.small_evaluations import direct, evaluation, finished, scores
from tests.small_runs import one_thread, weights

__all__ = ["evaluation", "one_thread", "weights"]

METHODS: list[Any] = [
    "gradient",
    {"name": "integrated_gradients", "steps": 4, "target": "prob_pred"},
    {"name": "integrated_gradients", "id": "noisy", "steps": 4, "baseline": "noise"},
    {"name": "guided_ig", "steps": 4},
    {"name": "blur_ig", "steps": 4, "max_sigma": 2.0},
    {"name": "uni", "steps": 3, "iterations": 3},
    {"name": "integrated_gradients", "id": "smooth", "steps": 2, "smooth": {"samples": 2}},
    "random",
]


def test_the_points_and_the_confidence_of_the_maps_themselves(
    evaluation: Callable[..., EvaluateManifest],
) -> None:
    manifest = evaluation("baseline", methods=METHODS, shard_rows=4, engine={"batch_size": 3})
    values, by_hand = scores(finished(manifest)), direct(manifest)
    x, evaluator = by_hand.x, by_hand.evaluator
    made = attribute(evaluator, x, by_hand.requests, **by_hand.settings)
    index = made[0].index
    starts = {
        "integrated_gradients": Black().draw(x, by_hand.seeds, 0, by_hand.normalization),
        "noisy": Noise().draw(x, by_hand.seeds, 0, by_hand.normalization),
        "guided_ig": Black().draw(x, by_hand.seeds, 0, by_hand.normalization),
        "blur_ig": scale_space(x, 2.0)[0],
        "uni": Unlearned(iterations=3).find(evaluator, x, index),
    }
    assert {method for _, method in values} == set(starts)
    confidence = evaluator.logits(x).softmax(1).gather(1, index[:, None])[:, 0]
    for one in made:
        if one.method not in starts:
            continue
        points = starts[one.method]
        there = evaluator.logits(points).softmax(1).gather(1, index[:, None])[:, 0]
        drop = values["baseline_confidence_drop", one.method]
        np.testing.assert_allclose(drop, (confidence - there).numpy(), atol=1e-5)
        assert one.baseline_confidence is not None
        torch.testing.assert_close(one.baseline_confidence, there.double(), atol=1e-5, rtol=0)
        np.testing.assert_array_equal(values["baseline_falls", one.method], drop > 0)
        away = baseline_distance(x, points, by_hand.normalization)
        for name, expected in zip(away._fields, away, strict=True):
            own = values[f"baseline_{name}", one.method]
            np.testing.assert_allclose(own, expected.numpy(), atol=1e-4, err_msg=name)
    np.testing.assert_allclose(values["baseline_l2", "guided_ig"], 1, atol=1e-6)
