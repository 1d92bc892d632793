"""Maps of another run: judged as if they had been made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gradattr.errors import UsageError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.work.planning.prepare import prepare

METRICS: list[Any] = [
    {"metric": "deletion", "steps": 4},
    "path_monotonicity",
    "completeness",
    "complexity",
    "agreement",
    {"metric": "insertion", "images": 11, "steps": 3},
]
KEYS = {
    "scores": ["row", "method", "metric"],
    "sample_curves": ["row", "method", "curve"],
    "sample_agreement": ["row", "first", "second"],
    "summary": ["method", "metric"],
    "predictions": ["row"],
}


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    data = {"format": "digits", "split": "train"}
    return {
        "data": {"format": "digits", "split": "test", "limit": 30},
        "model": {"arch": "mlp", "hidden": [16], "train": {"data": data, "epochs": 2, "lr": 0.05}},
        "methods": ["saliency", {"name": "integrated_gradients", "steps": 5}, "random"],
        "runtime": {"address": "inline"},
        "store": {"url": str(tmp_path), "maps": "float32"},
    }


@pytest.fixture
def attributed(asked: dict[str, Any]) -> Run:
    value = {"kind": "attribute", "name": "maps", "seed": 3, "shard_rows": 13, **asked}
    return _finished(AttributeManifest.model_validate(value))


@pytest.fixture
def of_run(asked: dict[str, Any]) -> Callable[..., EvaluateManifest]:
    def make(run_id: str, **changes: Any) -> EvaluateManifest:
        value = {
            "kind": "evaluate",
            "name": "judged",
            "attributions": f"run:{run_id}",
            "metrics": METRICS,
            "runtime": asked["runtime"],
            "store": asked["store"],
        }
        return EvaluateManifest.model_validate(value | changes)

    return make


def _finished(manifest: AttributeManifest | EvaluateManifest) -> Run:
    return Run(open_store(manifest.store), run(manifest).run_id)


def test_they_are_judged_as_maps_made_on_the_spot(
    asked: dict[str, Any], attributed: Run, of_run: Callable[..., EvaluateManifest]
) -> None:
    here = {"kind": "evaluate", "name": "here", "seed": 3, "metrics": METRICS, **asked}
    expected = _finished(EvaluateManifest.model_validate(here))
    # Shards that are cut elsewhere than that run's.
    found = _finished(of_run(attributed.run_id, shard_rows=8))
    assert {"maps", "attributions"}.isdisjoint(found.tables)
    for table, keys in KEYS.items():
        own, theirs = (
            one.frame(table).sort_values(keys, ignore_index=True) for one in (found, expected)
        )
        # Other shards are other batches, whose sums round otherwise.
        pd.testing.assert_frame_equal(own, theirs, rtol=0, atol=1e-6, obj=table)
    assert found.methods == attributed.methods


def test_some_of_its_methods(attributed: Run, of_run: Callable[..., EvaluateManifest]) -> None:
    found = _finished(of_run(attributed.run_id, methods=["saliency", "random"]))
    assert found.methods == ["saliency", "random"]
    assert set(found.table("scores")["method"].to_pylist()) == {"saliency", "random"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attributions": "run:nowhere-00000000"}, "does not exist"),
        ({"data": "digits"}, "another 'data'"),
        ({"seed": 4}, "another 'seed'"),
        ({"target": "logit_true"}, "another 'target'"),
        ({"methods": ["gradient", "uni"]}, "has no method 'gradient'"),
        ({"metrics": ["localisation"]}, "needs data with masks"),
    ],
)
def test_what_contradicts_the_run_is_refused(
    attributed: Run,
    of_run: Callable[..., EvaluateManifest],
    changes: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(UsageError, match=words):
        prepare(of_run(attributed.run_id, **changes))


def test_maps_that_are_not_whole_are_refused(
    asked: dict[str, Any], of_run: Callable[..., EvaluateManifest]
) -> None:
    store = asked["store"] | {"maps": "topk:5"}
    value = {"kind": "attribute", "name": "few", **asked, "store": store}
    found = _finished(AttributeManifest.model_validate(value))
    with pytest.raises(UsageError, match=r"topk:5.*not whole"):
        prepare(of_run(found.run_id))


def test_a_run_of_scores_has_no_maps_to_judge(
    attributed: Run, of_run: Callable[..., EvaluateManifest]
) -> None:
    judged = _finished(of_run(attributed.run_id))
    with pytest.raises(UsageError, match="is of kind 'evaluate'"):
        prepare(of_run(judged.run_id))
