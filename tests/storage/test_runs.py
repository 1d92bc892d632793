"""What ls and status see."""

from __future__ import annotations

import time
from collections.abc import Callable

from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import create_run
from gradattr.storage.runs import list_runs, progress, run_before

from .conftest import SmallRun

Make = Callable[..., SmallRun]


def test_listing_runs(any_store: ObjectStore, small_run: Make) -> None:
    assert list_runs(any_store) == []
    done, begun, broken = small_run(seed=1), small_run(seed=2, shards=5), small_run(seed=3)
    done.write(any_store)
    create_run(any_store, begun.json)
    broken.write(any_store)
    any_store.put(RunPaths(broken.run_id).commit, b"{")
    first, second, third = list_runs(any_store)
    assert (first.run_id, first.name, first.kind) == (done.run_id, "small", "attribute")
    assert first.committed
    assert first.rows == 12
    assert first.shards == 3
    assert first.tables["maps"] == 24
    assert first.bytes > 0
    assert (second.committed, second.rows, second.problem) == (False, 20, None)
    assert third.problem is not None
    assert "_COMMIT.json" in third.problem


def test_a_folder_that_is_no_run_is_listed_with_its_problem(local: ObjectStore) -> None:
    local.put_new("runs/odd name/x", b"")
    local.put_new("runs/half/run.json", b'{"run_id": "half"}')
    half, odd = list_runs(local)
    assert half.problem
    assert odd.problem


def test_progress(any_store: ObjectStore, small_run: Make) -> None:
    run = small_run(shards=4)
    create_run(any_store, run.json)
    run.write_shard(any_store, 2)
    stage = progress(any_store, run.json).stages[0]
    assert (stage.shards_done, stage.shards, stage.rows_done, stage.rows) == (1, 4, 4, 16)
    run.write(any_store)
    after = progress(any_store, run.json)
    assert after.committed
    assert after.stages[0].rows_done == 16


def test_the_run_before(any_store: ObjectStore, small_run: Make) -> None:
    runs = [small_run(seed=seed) for seed in (3, 1, 2)]
    assert [run.run_id for run in runs] != sorted(run.run_id for run in runs)
    for run in runs:
        run.write(any_store)
        time.sleep(1.1 if any_store.spec.url.startswith("s3") else 0.02)  # what the clock can tell
    other = small_run(seed=4)
    other.json["manifest"] = {"name": "small", "kind": "train"}
    other.write(any_store)
    create_run(any_store, small_run(seed=5).json)
    any_store.put_new("runs/half/run.json", b'{"run_id": "half"}')
    assert [run_before(any_store, run.run_id) for run in runs] == [
        None,
        runs[0].run_id,
        runs[1].run_id,
    ]
