"""The task that trains a model: what it leaves in the store and in the run's records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradattr.errors import ShardError
from gradattr.manifest.kinds import KINDS
from gradattr.models import load_kept, load_model, model_of_run, read_trained
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.gc import collect
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from gradattr.work import train as train_task
from gradattr.work.planning.prepare import prepare

Make = Callable[..., Any]

SHAPE = (1, 8, 8)
TRAIN = {"data": {"format": "digits", "limit": 60}, "epochs": 3, "lr": 0.1, "batch_size": 32}


class Crashed(Exception):
    """Stands for a driver that dies at this very instant."""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A manifest of kind 'train'; keyword arguments go into its ``train`` block."""

    def build(name: str = "teacher", **train: Any) -> Any:
        value = {
            "kind": "train",
            "name": name,
            "model": {"arch": "mlp", "hidden": [8], "train": TRAIN | train},
            "runtime": {"address": "inline"},
            "store": {"url": str(tmp_path / "store")},
        }
        return KINDS["train"].model_validate(value)

    return build


def trained_by(manifest: Any) -> tuple[Run, Any]:
    """(the finished run, the trained model's record)"""
    found = open_run(run(manifest).uri)
    trained = read_trained(found.store, prepare(manifest).context.model("model").digest)
    assert trained is not None
    return found, trained


def extra(found: Run) -> dict[str, Any]:
    (record,) = found.commit.records
    return record.extra


def weights(found: Run, manifest: Any, epoch: int) -> torch.Tensor:
    reference = model_of_run(f"run:{found.run_id}", found.store)
    options: dict[str, Any] = {"shape": SHAPE, "num_classes": 10}
    model = load_kept(found.store, reference, epoch, manifest.model, **options)
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_kept_epochs_are_in_the_run_s_record(make: Make) -> None:
    found, trained = trained_by(make(keep_epochs=[1, 3]))
    assert [kept.epoch for kept in trained.kept] == [1, 3]
    assert extra(found)["kept_epochs"] == [1, 3]
    assert extra(found)["files"] == trained.files()
    assert len(trained.files()) == 3
    assert model_of_run(f"run:{found.run_id}", found.store).kept == trained.kept
    report = verify_run(found.store, found.run_id)
    assert report.ok, report.problems
    assert report.files == len(trained.files()) + len(found.commit.all_files()) + 2
    assert collect(found.store, grace_hours=0).deleted == []


def test_they_are_those_of_shorter_trainings(make: Make) -> None:
    manifest = make(keep_epochs=[1, 2])
    found, _ = trained_by(manifest)
    for epoch in (1, 2):
        shorter = make(f"shorter-{epoch}", epochs=epoch, keep_epochs=[epoch])
        other, trained = trained_by(shorter)
        assert trained.sha256 == trained.kept[0].sha256
        assert torch.equal(weights(found, manifest, epoch), weights(other, shorter, epoch))


def test_a_run_whose_model_has_kept_epochs_gives_its_final_weights_to_others(make: Make) -> None:
    found, _ = trained_by(make(keep_epochs=[1]))
    plain, _ = trained_by(make())
    assert found.run_id != plain.run_id
    loaded = []
    for source in (found, plain):
        value = make().model.model_dump() | {"train": None, "weights": f"run:{source.run_id}"}
        spec = type(make().model).model_validate(value)
        loaded.append(load_model(spec, source.store, shape=SHAPE, num_classes=10).state_dict())
    assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def test_a_training_that_stops_early(make: Make) -> None:
    found, trained = trained_by(make(keep_epochs=[1, 3], stop_below=100.0))
    assert trained.metrics["epochs"] == 1
    assert extra(found)["kept_epochs"] == [1]


def test_nothing_asked_for(make: Make) -> None:
    found, trained = trained_by(make())
    assert extra(found)["kept_epochs"] == []
    assert [file["key"] for file in extra(found)["files"]] == [trained.key]


def test_another_run_finds_model_and_kept_epochs(make: Make) -> None:
    _, trained = trained_by(make(keep_epochs=[2]))
    found, again = trained_by(make("second", keep_epochs=[2]))
    assert again == trained
    assert extra(found)["files"] == trained.files()


@pytest.mark.parametrize("number", [0, 1])
def test_lost_before_the_run_is_complete_they_are_made_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    manifest = make(keep_epochs=[1, 3])
    store = open_store(manifest.store)

    def crash(*_: Any, **__: Any) -> None:
        raise Crashed

    monkeypatch.setattr("gradattr.runtime.driver.commit_run", crash)
    with pytest.raises(Crashed):
        run(manifest)
    monkeypatch.undo()
    lost = sorted((tmp_path / "store").glob("models/*/kept-*"))[number]
    before = lost.read_bytes()
    lost.unlink()
    found, trained = trained_by(manifest)
    assert store.get(trained.kept[number].key) == before
    report = verify_run(found.store, found.run_id)
    assert report.ok, report.problems


def test_a_kept_file_that_is_lost_later_is_reported(make: Make) -> None:
    found, trained = trained_by(make(keep_epochs=[1]))
    found.store.delete(trained.kept[0].key)
    report = verify_run(found.store, found.run_id)
    assert not report.ok
    assert trained.kept[0].key in report.problems[0]


def test_the_linear_baseline_keeps_none(make: Make, tmp_path: Path) -> None:
    """It is trained by the explained model's recipe, of which that is no part."""
    value = make(keep_epochs=[1]).model_dump(mode="json") | {
        "kind": "attribute",
        "data": {"format": "digits", "limit": 20},
        "methods": ["saliency", "linear"],
    }
    found = open_run(run(KINDS["attribute"].model_validate(value)).uri)
    kept = {
        r.extra["role"]: r.extra["kept_epochs"] for r in found.commit.records if r.stage == "train"
    }
    assert kept == {"model": [1], "linear:linear": []}


def test_trained_weights_that_vanish_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept file that is gone when the shard is finished: it does not count."""
    manifest = make(keep_epochs=[1])

    def losing(store: Any, *arguments: Any) -> Any:
        trained = write(store, *arguments)
        store.delete(trained.kept[0].key)
        return trained

    write = train_task.write_trained
    monkeypatch.setattr(train_task, "write_trained", losing)
    with pytest.raises(ShardError):
        run(manifest)
    monkeypatch.undo()
    found, _ = trained_by(manifest)
    assert verify_run(found.store, found.run_id).ok
