"""What gc may delete, and what it must leave."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from gradattr.errors import UsageError
from gradattr.storage import layout
from gradattr.storage.commit import commit_run, read_commit
from gradattr.storage.gc import collect, store_clock
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import create_run
from gradattr.storage.sealed import seal
from gradattr.storage.verify import verify_run

from .conftest import SmallRun

Make = Callable[..., SmallRun]


def _keys(store: ObjectStore) -> set[str]:
    return {item.key for item in store.list("")}


def _age(store: ObjectStore, hours: float) -> None:
    """Make everything that is there older."""
    for item in list(store.list("")):
        path = store.local_path(item.key)
        assert path is not None
        os.utime(path, (item.modified - hours * 3600,) * 2)


def test_only_leftovers_of_a_committed_run_go(any_store: ObjectStore, small_run: Make) -> None:
    run = small_run()
    create_run(any_store, run.json)
    run.write_shard(any_store, 0)
    first = _keys(any_store)
    run.write_shard(any_store, 0, jitter=1.0)
    leftovers = _keys(any_store) - first
    assert len(leftovers) == 3
    for number in (1, 2):
        run.write_shard(any_store, number)
    commit = commit_run(any_store, run.json)
    any_store.put_new(RunPaths(run.run_id).log("a1", "driver.json"), b"{}")
    assert collect(any_store).deleted == []
    before = _keys(any_store)
    # S3 stamps whole seconds: only what is older than the stamp of now goes.
    time.sleep(1.1 if any_store.backend.kind == "s3" else 0.01)
    dry = collect(any_store, grace_hours=0, dry_run=True)
    assert set(dry.deleted) == leftovers
    assert _keys(any_store) == before
    done = collect(any_store, grace_hours=0)
    assert set(done.deleted) == leftovers
    assert done.bytes > 0
    assert _keys(any_store) == before - leftovers
    assert verify_run(any_store, run.run_id).ok
    assert read_commit(any_store, run.run_id) == commit


def test_a_run_in_progress_keeps_what_its_records_name(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    create_run(local, run.json)
    run.write_shard(local, 0)
    named = _keys(local)
    run.write_shard(local, 0, jitter=1.0)
    young = small_run(seed=1)
    young.writer(local, 0)
    _age(local, 25)
    run.write_shard(local, 1)
    orphans = run.writer(local, 2)
    assert orphans is not None
    now = _keys(local)
    report = collect(local)
    assert len(report.deleted) == 3
    assert named <= _keys(local)
    assert set(report.deleted) == now - _keys(local)
    run.write_shard(local, 2)
    commit_run(local, run.json)
    assert verify_run(local, run.run_id).ok


def test_an_abandoned_run_goes_only_on_request(local: ObjectStore, small_run: Make) -> None:
    run, other = small_run(), small_run(seed=1)
    create_run(local, run.json)
    run.write_shard(local, 0)
    _age(local, 25)
    other.write(local)
    assert collect(local).deleted == []
    report = collect(local, abandoned=True)
    assert report.deleted
    assert all(key.startswith(f"runs/{run.run_id}/") for key in report.deleted)
    assert not list(local.list(f"runs/{run.run_id}/"))
    assert verify_run(local, other.run_id).ok


def test_a_run_with_a_damaged_commit_is_left_alone(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    run.write(local)
    local.put(RunPaths(run.run_id).commit, b"{")
    _age(local, 25)
    before = _keys(local)
    report = collect(local, abandoned=True)
    assert report.deleted == []
    assert "_COMMIT.json" in report.problems[0]
    assert _keys(local) == before


def test_unfinished_files_and_probes_go(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    run.write(local)
    local.put(f"runs/{run.run_id}/data/maps/.tmp-0123", b"half")
    local.put(layout.probe_key(), b"forgotten")
    assert collect(local).deleted == []
    _age(local, 25)
    assert len(collect(local).deleted) == 2


def test_trained_models_keep_what_is_named(local: ObjectStore, small_run: Make) -> None:
    digest = "ab" * 32
    old = layout.trained_checkpoint_data_key(digest, 1, "aaaa")
    new = layout.trained_checkpoint_data_key(digest, 2, "bbbb")
    lost = layout.trained_weights_key(digest, "00" * 8, "cccc")
    used = layout.trained_weights_key(digest, "11" * 8, "dddd")
    committed = layout.trained_weights_key("cd" * 32, "22" * 8, "eeee")
    for key in (old, new, lost, used, committed):
        local.put_unique(key, key.encode())
    local.put(layout.trained_checkpoint_key(digest), f'{{"key": "{new}"}}'.encode())
    local.put(layout.trained_record_key(digest), f'{{"weights": "{used}"}}'.encode())
    run = small_run(shards=1)
    create_run(local, run.json)
    model = {"key": committed, "bytes": len(committed), "sha256": "0" * 64}
    run.write_shard(local, 0, extra={"files": [model]})
    commit_run(local, run.json)
    _age(local, 25)
    assert collect(local).deleted == sorted([old, lost])
    report = verify_run(local, run.run_id)
    assert not report.ok
    assert committed in report.problems[0], "its digest is not the one that was recorded"


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_training_resumes_from_goes_once_the_model_is_there(
    local: ObjectStore, whole: bool
) -> None:
    digest = "ab" * 32
    weights = layout.trained_weights_key(digest, "00" * 8, "aaaa")
    kept = layout.trained_kept_key(digest, 1, "11" * 8, "bbbb")
    checkpoint = layout.trained_checkpoint_data_key(digest, 2, "cccc")
    for key in (weights, checkpoint, *([kept] if whole else [])):
        local.put_unique(key, key.encode())
    pointer = layout.trained_checkpoint_key(digest)
    local.put(pointer, f'{{"key": "{checkpoint}"}}'.encode())
    record = {
        "format": layout.TRAINED_FORMAT,
        "weights": weights,
        "bytes": len(weights),
        "kept": [{"key": kept, "bytes": len(kept)}],
    }
    local.put(layout.trained_record_key(digest), seal(record))
    assert collect(local).deleted == [], "younger than the grace period"
    _age(local, 25)
    assert collect(local).deleted == (sorted([pointer, checkpoint]) if whole else [])


def test_the_store_s_clock_and_a_negative_grace(any_store: ObjectStore) -> None:
    assert abs(store_clock(any_store) - time.time()) < 60
    assert _keys(any_store) == set()
    with pytest.raises(UsageError, match="grace"):
        collect(any_store, grace_hours=-1)
