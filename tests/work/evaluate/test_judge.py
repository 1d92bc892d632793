"""A shard's images, batch by batch; those of metrics that look at some of them wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.work.attribute import batch
from gradattr.work.evaluate import judge, judging
from gradattr.work.evaluate.subject import Subject
from tests.small_evaluations import evaluation, finished, scores
from tests.small_runs import one_thread, weights

__all__ = ["evaluation", "one_thread", "weights"]

Make = Callable[..., EvaluateManifest]

METRICS: list[Any] = [
    {"metric": "deletion", "steps": 3, "images": 11},
    {"metric": "sensitivity", "samples": 2, "images": 11},
    {"metric": "insertion", "steps": 3},
    {"metric": "stability", "steps": [2, 4], "images": 11},
]
DATA = {"format": "digits", "limit": 30}


def test_chosen_images_of_several_batches_are_judged_together(
    evaluation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished(evaluation(*METRICS, data=DATA, shard_rows=30))
    judged: dict[str, list[int]] = {}
    own = judging.judge

    def counted(metric: Any, subject: Subject) -> Any:
        judged.setdefault(metric.metric, []).append(len(subject.rows))
        return own(metric, subject)

    monkeypatch.setattr(judge, "judge", counted)
    for room in (batch, judge):
        monkeypatch.setattr(room, "images_at_once", lambda context: 4)
    found = finished(evaluation(*METRICS, data=DATA, shard_rows=30, name="in-batches"))
    # Eight batches of four; of each the chosen ones wait, until there are four at least.
    assert judged["insertion"] == [4] * 7 + [2]
    for metric in ("deletion", "sensitivity", "stability"):
        assert sum(judged[metric]) == 11
        assert all(count >= 4 for count in judged[metric][:-1])
    here, there = scores(whole), scores(found)
    assert here.keys() == there.keys()
    for key, values in here.items():
        assert there[key] == pytest.approx(values, rel=1e-4, abs=1e-5, nan_ok=True), key


def test_metrics_with_as_many_images_look_at_the_same_ones(evaluation: Make) -> None:
    manifest = evaluation(*METRICS, data=DATA)
    first, second, every, _ = (judge.images_of(manifest, one, 30) for one in manifest.metrics)
    assert first == second and first is not None and len(first) == 11 and every is None
    assert judge.images_of(manifest, manifest.metrics[0], 11) is None
    other = evaluation(*METRICS, data=DATA, seed=6)
    assert judge.images_of(other, other.metrics[0], 30) != first
