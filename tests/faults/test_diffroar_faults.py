"""Whole audits under faults: whatever happens on the way, the tables are those of an undisturbed
run, bit for bit, or the run says why not (processes of Ray: tests/runtime/test_audit_on_ray.py)."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradattr.cli.main import main
from gradattr.errors import (
    DataError,
    GradattrError,
    IntegrityError,
    Interrupted,
    MethodError,
    ModelError,
    ShardError,
    StoreError,
)
from gradattr.manifest.operation import Store
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from gradattr.work.diffroar import masked_data, rankers
from gradattr.work.modules import build_module
from tests.disturbed import killed_at, two_at_once, when

from .conftest import DriverCrashed

Make = Callable[..., Any]

TABLES = ("training", "ranks", "trials", "pred_power", "diffroar")
RECIPE = {"epochs": 2, "lr": 0.1, "batch_size": 32}
DIGITS = {"format": "digits", "split": "train", "limit": 60}


@pytest.fixture
def small(audit: Make) -> Make:
    """An audit of a second: 3 trainings, 12 shards of ranks, 20 trials."""

    def make(**changes: Any) -> Any:
        masked_data._cache.clear()
        rankers._cache.clear()
        parts: dict[str, Any] = {
            "data": DIGITS,
            "test": {"format": "digits", "split": "test", "limit": 30},
            "models": {
                "standard": {"arch": "mlp", "hidden": [8], "train": RECIPE},
                "robust": {
                    "arch": "mlp",
                    "hidden": [8],
                    "train": RECIPE | {"adversary": {"norm": "l2", "eps": 0.5, "steps": 2}},
                },
            },
            "levels": [0.3, 1.0],
            "mask_only": False,
            "shard_rows": 45,
        }
        return audit(**(parts | changes))

    return make


@pytest.fixture(scope="module")
def known() -> dict[str, Run]:
    return {}


@pytest.fixture
def undisturbed(
    small: Make, known: dict[str, Run], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """What the small audit gives where nothing goes wrong; carried out once."""
    if not known:
        store = {"url": str(tmp_path_factory.mktemp("undisturbed"))}
        known["run"] = open_run(run(small(store=store)).uri)
    return known["run"]


def _same(one: Run, two: Run) -> None:
    for name in TABLES:
        assert one.table(name).equals(two.table(name)), name


def _npz(path: Path, start: int, rows: int, **changes: Any) -> dict[str, Any]:
    digits = load_digits()
    images = (digits.images[start : start + rows] * 15).astype(np.uint8)
    arrays = {"images": images, "labels": digits.target[start : start + rows]}
    np.savez(path, **(arrays | changes))
    return {"format": "npz", "file": str(path)}


def _records(store: Path, stage: str) -> list[str]:
    return sorted(path.stem for path in store.glob(f"runs/*/shards/{stage}/*.json"))


def _crash() -> None:
    raise DriverCrashed


def test_a_driver_killed_in_every_stage(small: Make, undisturbed: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    places = [
        ("run.json", 1),
        ("/shards/train/", 2),
        ("/data/ranks/", 2),
        ("/shards/rank/", 3),
        ("/data/trials/", 4),
        ("/shards/trial/", 5),
        ("/shards/score/", 1),
        ("/data/diffroar/all-", 1),
        ("_COMMIT.json", 1),
    ]
    done = []
    for place, nth in places:
        assert killed_at(place, nth, small()), place
        done.append({stage: len(_records(store, stage)) for stage in ("train", "rank", "trial")})
    assert done[-1] == {"train": 3, "rank": 12, "trial": 20}
    told: list[str] = []
    result = run(small(), listener=lambda event: told.append(event.kind))
    assert "shard" not in told
    _same(open_run(result.uri), undisturbed)
    assert verify_run(open_store(str(store)), result.run_id).ok


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_trials_keeps_what_is_done(
    small: Make, undisturbed: Run, tmp_path: Path, number: int
) -> None:
    stop = when("trial", lambda: os.kill(os.getpid(), number), "shard")
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught:
        run(small(), listener=stop)
    assert caught.value.exit_code == 130
    assert len(_records(tmp_path / "store", "trial")) == 1
    told: list[str] = []
    result = run(
        small(), listener=lambda event: told.append(event.key) if event.kind == "shard" else None
    )
    assert len(told) == 19 + 1, "19 trials and the scores"
    _same(open_run(result.uri), undisturbed)


def test_two_drivers_at_once_make_one_commit(small: Make, undisturbed: Run, tmp_path: Path) -> None:
    two_at_once(small())
    (commit,) = (tmp_path / "store").glob("runs/*/_COMMIT.json")
    found = open_run(str(commit.parent))
    _same(found, undisturbed)
    assert verify_run(found.store, found.run_id).ok


@pytest.mark.parametrize("server", ["s3_moto", "s3_rclone"])
def test_an_audit_on_s3_equals_a_local_one(
    small: Make,
    undisturbed: Run,
    server: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    store: Store = request.getfixturevalue(server)
    outside = open_store(store.model_copy(update={"url": store.url + "-other"}))
    outside.put("runs/kept/file", b"not yours")
    before = sorted(tmp_path.rglob("*"))
    manifest = small(store=store.model_dump(exclude_none=True))
    with pytest.raises(DriverCrashed):
        run(manifest, listener=when("trial", _crash, "shard"))
    result = run(manifest)
    found = open_run(result.run_id, store=store)
    assert result.run_id == undisturbed.run_id
    _same(found, undisturbed)
    assert verify_run(found.store, found.run_id).ok
    assert sorted(tmp_path.rglob("*")) == before, "a run on S3 wrote to the local disk"
    assert [item.key for item in outside.list("")] == ["runs/kept/file"]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_flip, Path.unlink])
def test_ranks_that_are_damaged_before_the_trials(
    small: Make, undisturbed: Run, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"

    def spoil() -> None:
        damage(next(store.glob("runs/*/data/ranks/part-standard-train-*")))

    with pytest.raises(ShardError, match="standard-train-0000") as caught:
        run(small(), listener=when("trial", spoil))
    assert "4 of 20 shards of stage trial" in str(caught.value)
    assert len(_records(store, "trial")) == 16, "the other schemes' trials are kept"
    if damage is _flip:
        # Altered bytes are not deleted by us: they may be evidence.
        with pytest.raises(ShardError, match="delete it and run the same command again"):
            run(small())
        for path in store.glob("runs/*/data/ranks/part-standard-train-*"):
            path.unlink()
    _same(open_run(run(small()).uri), undisturbed)


def test_weights_that_vanish_are_trained_again(
    small: Make, undisturbed: Run, tmp_path: Path
) -> None:
    with pytest.raises(DriverCrashed):
        run(small(), listener=when("trial", _crash, "shard"))
    for weights in (tmp_path / "store").glob("models/*/*.safetensors"):
        weights.unlink()
    _same(open_run(run(small()).uri), undisturbed)


@pytest.mark.parametrize("lost", ["weights", "weights and ranks"])
def test_trials_on_ranks_of_other_weights_are_never_mixed(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """On a GPU a model that is trained again is another one; here another seed stands for that."""
    with pytest.raises(DriverCrashed):
        run(small(), listener=when("trial", _crash, "shard"))
    store = tmp_path / "store"
    for weights in store.glob("models/*/*.safetensors"):
        weights.unlink()
    if lost == "weights and ranks":
        for record in store.glob("runs/*/shards/rank/*.json"):
            record.unlink()
    monkeypatch.setattr(
        "gradattr.work.train.build_module", lambda *given: build_module(*given[:2], seed=77)
    )
    with pytest.raises(IntegrityError, match="were computed with different weights"):
        run(small())
    assert not list(store.glob("runs/*/_COMMIT.json"))


@pytest.mark.parametrize("room", [3, 14, 30])
def test_a_disk_that_is_full_for_a_while(
    small: Make, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    left, fsync = iter(range(room)), os.fsync

    def full(handle: int) -> None:
        if next(left, None) is None:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="the disk is full: free space"):
            run(small())
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    _same(open_run(run(small()).uri), undisturbed)


def test_a_changed_test_set_is_another_run(small: Make, tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    test = _npz(path, 100, 30)
    with pytest.raises(DriverCrashed):
        run(small(test=test), listener=when("trial", _crash, "shard"))
    (old,) = (tmp_path / "store" / "runs").iterdir()
    before = {file: file.read_bytes() for file in old.rglob("*") if file.is_file()}
    _npz(path, 130, 30)
    assert run(small(test=test)).run_id != old.name
    assert {file: file.read_bytes() for file in old.rglob("*") if file.is_file()} == before


def test_a_factory_that_is_edited_under_way_is_not_mixed_in(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts later would import the new source."""
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "edited_models.py"
    text = (Path(__file__).with_name("fragile.txt")).read_text()
    source.write_text(text)
    importlib.invalidate_caches()
    model = {"arch": "python", "factory": "edited_models:trained", "num_classes": 10}
    models = {"own": model | {"train": RECIPE}}

    def edit() -> None:
        source.write_text(text.replace("nn.ReLU()", "nn.Softplus()"))

    with pytest.raises(ShardError, match="source of edited_models:trained is not what it was"):
        run(small(models=models), listener=when("trial", edit))
    (old,) = (tmp_path / "store" / "runs").iterdir()
    assert _records(tmp_path / "store", "trial") == []
    del sys.modules["edited_models"]
    assert run(small(models=models)).run_id != old.name


def test_maps_without_an_order_are_named(small: Make, fragile: str, tmp_path: Path) -> None:
    model = {"arch": "python", "factory": f"{fragile}:without_gradient", "num_classes": 10}
    manifest = small(models={"own": model}, retrain=False, baselines=["random"])
    with pytest.raises(ShardError, match=r"own/saliency: the map of row 0 .* has a NaN") as caught:
        run(manifest)
    assert caught.value.exit_code == 3
    assert _records(tmp_path / "store", "rank") == ["random-test-00000"]


def _one_class(folder: Path) -> dict[str, Any]:
    return {"data": _npz(folder / "one.npz", 0, 40, labels=np.zeros(40, int))}


def _wide_mask(folder: Path) -> dict[str, Any]:
    mask = {"value": 1e38, "space": "pixels"}
    return {"mask": mask, "preprocess": {"mean": [0.5], "std": [0.01]}}


def _large_pool(folder: Path) -> dict[str, Any]:
    data = _npz(folder / "pool.npz", 0, 5, images=np.zeros((5, 9, 9), np.uint8))
    baseline = {"kind": "sample", "count": 5, "data": data}
    return {"methods": [{"name": "expected_gradients", "baseline": baseline}]}


def _frozen(folder: Path) -> dict[str, Any]:
    model = {"arch": "python", "factory": "fragile_models:frozen", "num_classes": 10}
    return {"models": {"own": model}, "retrain": RECIPE}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        (_one_class, DataError, "every image has the same label"),
        (_wide_mask, MethodError, "which 32 bits cannot hold"),
        (_large_pool, DataError, "baseline pool are 1x9x9, the model's input is 1x8x8"),
        (_frozen, ModelError, "has no trainable parameters"),
    ],
)
def test_what_would_fail_hours_later_is_told_first(
    small: Make,
    fragile: str,
    tmp_path: Path,
    changes: Callable[[Path], dict[str, Any]],
    error: type[GradattrError],
    text: str,
) -> None:
    with pytest.raises(error, match=text) as caught:
        run(small(**changes(tmp_path)))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store").exists()


def test_a_figure_that_cannot_be_written(
    undisturbed: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = str(tmp_path / "no-such-folder" / "curves.png")
    monkeypatch.setattr(sys, "argv", ["gradattr", "plot", undisturbed.uri, "--output", target])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err
