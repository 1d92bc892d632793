"""What a plan counts of methods that share something."""

from __future__ import annotations

from typing import Any

from gradattr.work.methods import stand_in_requests
from gradattr.work.planning.probe import evaluations_per_row


def _count(manifest: Any, *methods: Any) -> int:
    shape = (1, 8, 8)
    requests = stand_in_requests(manifest(methods=list(methods)), shape, 10)
    return evaluations_per_row(requests, 10, shape)


def test_passes_are_counted_once(manifest: Any) -> None:
    assert _count(manifest, "gradient", "saliency", {"name": "smoothgrad", "samples": 7}) == 1 + 7


def test_a_baseline_is_found_once_for_all_that_start_there(manifest: Any) -> None:
    unlearned = {"name": "integrated_gradients", "steps": 20, "baseline": "uni"}
    assert _count(manifest, "uni") == 15 + 12
    assert _count(manifest, "uni", unlearned) == 15 + 12 + 20
    other = {"name": "uni", "id": "other", "eps": 1.0, "iterations": 3, "steps": 2}
    assert _count(manifest, "uni", unlearned, other) == 15 + 12 + 20 + 2 + 5
    # The same pass altogether: its target is the published one, whatever the manifest's.
    same = {**unlearned, "steps": 15, "rule": "right", "target": "prob_pred"}
    assert _count(manifest, "uni", same) == 27


def test_paths_to_other_classes_are_as_many_as_there_are(manifest: Any) -> None:
    assert _count(manifest, "agi") == 2 * 20 * 9
    assert _count(manifest, {"name": "agi", "classes": 4, "iterations": 3}) == 2 * 3 * 4
    assert _count(manifest, "blur_ig", "guided_ig") == 100 + 200


def test_a_smoothed_method_costs_as_much_for_every_copy(manifest: Any) -> None:
    smooth = {"samples": 4}
    assert _count(manifest, {"name": "uni", "smooth": smooth}) == 4 * 27
    assert _count(manifest, "saliency", {"name": "gradient", "smooth": smooth}) == 1 + 4
    # Steps on the finished map cost nothing, and share the passes of the map itself.
    steps = {"name": "saliency", "id": "steps", "post": ["square", "channel_sum"]}
    assert _count(manifest, "saliency", steps) == 1
