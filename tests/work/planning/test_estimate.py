"""What a plan says an audit costs, counted by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.model import CnnModel
from gradattr.models import build_model, save_weights
from gradattr.storage.objects import open_store
from gradattr.work.planning.estimate import estimate
from gradattr.work.planning.prepare import prepare
from gradattr.work.planning.probe import clock


def report(folder: Path, probe: bool = False, **changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "kind": "diffroar",
        "name": "audit",
        "data": {"format": "digits", "limit": 100},
        "test": {"format": "digits", "split": "test", "limit": 40},
        "models": {
            "standard": {"arch": "mlp", "hidden": [8], "train": {"epochs": 3}},
            "robust": {
                "arch": "mlp",
                "hidden": [8],
                "train": {"epochs": 3, "adversary": {"norm": "l2", "eps": 0.5}},
            },
        },
        "methods": ["saliency", {"name": "integrated_gradients", "steps": 5}],
        "levels": [0.1, 0.5, 1.0],
        "seeds": 2,
        "runtime": {"address": "inline"},
        "store": str(folder),
    }
    manifest = DiffRoarManifest.model_validate(value | changes)
    store = open_store(manifest.store)
    return estimate(prepare(manifest, store), store, probe=probe)


def test_trials_and_epochs(tmp_path: Path) -> None:
    """Two models share a learner: 4 schemes of theirs, random and linear."""
    found = {v["variant"]: v for v in report(tmp_path)["audit"]["variants"]}
    # Below level 1: 6 schemes x 2 levels x 2 arms x 2 seeds; at level 1 once for all schemes.
    assert found["retrain"]["trials"] == 6 * 2 * 2 * 2 + 2 * 2
    assert found["retrain"]["epochs"] == 3 * found["retrain"]["trials"]
    # A random mask says nothing, so it has no control.
    assert found["mask_only"]["trials"] == 5 * 2 * 2 * 2


def test_bytes_of_ranks_and_of_what_they_replace(tmp_path: Path) -> None:
    audit = report(tmp_path)["audit"]
    assert audit["rank_bytes"] == (100 + 40) * 6 * 64
    assert audit["masked_copies_bytes"] == audit["rank_bytes"] * 4 * 2 * 3


def test_evaluations_of_the_ranking_stage(tmp_path: Path) -> None:
    stages = {stage["name"]: stage for stage in report(tmp_path)["stages"]}
    # Two base models with 1 + 5 passes, the linear one with 1.
    assert stages["rank"]["evaluations"] == 140 * (2 * 6 + 1)
    assert stages["trial"]["evaluations"] == 0


def test_without_retraining_only_the_test_set_is_ranked(tmp_path: Path) -> None:
    found = report(tmp_path, retrain=False, probe=True)
    assert found["audit"]["variants"] == [{"variant": "no_retrain", "trials": 8, "epochs": 0}]
    assert found["audit"]["rank_bytes"] == 40 * 6 * 64
    assert {s["name"]: s["seconds"] for s in found["stages"]}["evaluate"] is None


def test_the_probe_times_every_kind_of_task(tmp_path: Path) -> None:
    stages = {stage["name"]: stage for stage in report(tmp_path, probe=True)["stages"]}
    assert all(stages[name]["seconds"] > 0 for name in ("train", "rank", "trial"))
    more = {"arch": "mlp", "hidden": [8], "train": {"epochs": 300}}
    longer = report(tmp_path, probe=True, models={"standard": more}, methods=["saliency"])
    per_trial = [
        next(s["seconds"] / s["shards"] for s in found if s["name"] == "trial")
        for found in (list(stages.values()), longer["stages"])
    ]
    assert per_trial[1] > 10 * per_trial[0]


def test_a_model_with_weights_and_no_recipe_is_planned_without_retraining(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cnn.safetensors"
    spec = CnnModel(arch="cnn", width=4, weights=str(path))
    path.write_bytes(save_weights(build_model(spec, shape=(1, 8, 8), num_classes=10, seed=7)))
    model = {"arch": "cnn", "width": 4, "weights": str(path)}
    found = report(tmp_path, models={"a": model}, retrain=False, baselines=["random"])
    assert [stage["name"] for stage in found["stages"]] == ["rank", "evaluate", "score"]


def test_an_order_takes_time_without_a_map(tmp_path: Path) -> None:
    """Of a large image the sorting is what takes long."""
    blocks = {"format": "blockmnist", "digits": [0, 1], "limit": 20}
    found = report(
        tmp_path,
        probe=True,
        data=blocks,
        test=blocks | {"split": "test"},
        methods=["saliency"],
        baselines=["random", "signal_first", "null_first"],
    )
    (rank,) = [stage for stage in found["stages"] if stage["name"] == "rank"]
    # 56 x 28 values take tens of microseconds at least, whatever the machine.
    assert rank["seconds"] > rank["rows"] * 1e-5


def test_other_programs_are_not_taken_for_ours() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert clock(torch.device("cpu")) is time.process_time
        assert clock(torch.device("cuda")) is time.perf_counter
        torch.set_num_threads(2)
        assert clock(torch.device("cpu")) is time.perf_counter
    finally:
        torch.set_num_threads(threads)
