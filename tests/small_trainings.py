"""A training that keeps epochs, small enough to run many of them; what it must leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.canonical import digest_bytes
from gradattr.manifest.kinds import KINDS
from gradattr.models import TrainedModel, read_trained
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.storage.gc import collect
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from gradattr.work.planning.prepare import prepare

#: (epoch, learning rate, bytes) of kept weights.
Kept = list[tuple[int, float, bytes]]

ASKED = [1, 3, 4]

#: What the writes of a training are called.
WRITES = ["kept", "checkpoint", "checkpoint.json"]
WRITES += [*WRITES[1:], *WRITES * 2, "weights", "record.json"]


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., Any]:
    """A training of four epochs with a checkpoint to resume from after every second."""

    def build(store: Any = None, **train: Any) -> Any:
        recipe = {
            "data": {"format": "digits", "limit": 60},
            "epochs": 4,
            "lr": 0.05,
            "lr_decay_every": 2,
            "batch_size": 16,
            "checkpoint_every": 2,
            "augment": {"crop_padding": 1},
            "stop_below": 0,
            "keep_epochs": ASKED,
        }
        value = {
            "kind": "train",
            "name": "kept",
            "model": {"arch": "cnn", "width": 2, "train": recipe | train},
            "runtime": {"address": "inline"},
            "store": store or {"url": str(tmp_path / "store")},
        }
        return KINDS["train"].model_validate(value)

    return build


def trained_model(manifest: Any) -> TrainedModel:
    digest = prepare(manifest).context.model("model").digest
    trained = read_trained(open_store(manifest.store), digest)
    assert trained is not None
    return trained


def finished(manifest: Any) -> Kept:
    """Carry it out; what it has kept, after looking at every file: (epoch, lr, bytes), and the
    final weights as epoch 0."""
    result = run(manifest)
    opened = open_run(result.run_id, store=manifest.store)
    report = verify_run(opened.store, result.run_id)
    assert report.ok, report.problems
    trained = trained_model(manifest)
    found: Kept = []
    for epoch, lr, file in [
        (0, 0.0, trained),
        *((kept.epoch, kept.lr, kept) for kept in trained.kept),
    ]:
        data = opened.store.get(file.key)
        assert data is not None
        assert (digest_bytes(data), len(data)) == (file.sha256, file.bytes)
        found.append((epoch, lr, data))
    return found


def only_the_model_is_left(manifest: Any) -> None:
    """Whatever attempts have left behind, gc takes it, and nothing of the model."""
    store = open_store(manifest.store)
    collect(store, grace_hours=0)
    left = {Path(item.key).name for item in store.list("models/")}
    assert left == {"record.json", *(Path(f["key"]).name for f in trained_model(manifest).files())}


@pytest.fixture(scope="session")
def kept_once() -> dict[str, Kept]:
    return {}


@pytest.fixture
def undisturbed_kept(
    training: Callable[..., Any], kept_once: dict[str, Kept], tmp_path: Path
) -> Kept:
    """What the training keeps where nothing goes wrong; carried out once."""
    if not kept_once:
        kept_once["kept"] = finished(training({"url": str(tmp_path / "undisturbed")}))
        assert [epoch for epoch, _, _ in kept_once["kept"]] == [0, *ASKED]
    return kept_once["kept"]
