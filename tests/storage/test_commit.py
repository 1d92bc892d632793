"""From records to a commit, and the readers that trust nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradattr.canonical import digest_bytes
from gradattr.errors import ConflictError, IntegrityError, ShardError, UsageError
from gradattr.storage.commit import commit_run, find_commit, missing_shards, read_commit
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.query import open_query
from gradattr.storage.reader import check_files, find_map, read_table
from gradattr.storage.run_json import create_run, read_run, run_bytes
from gradattr.storage.sealed import seal, unseal
from gradattr.storage.verify import verify_run

from .conftest import METHODS, SmallRun

Make = Callable[..., SmallRun]


def test_a_run_from_claim_to_answer(any_store: ObjectStore, small_run: Make) -> None:
    run = small_run()
    assert create_run(any_store, run.json) == "created"
    assert create_run(any_store, run.json) == "exists"
    assert read_run(any_store, run.run_id) == run.json
    assert len(missing_shards(any_store, run.json)) == 3
    run.write_shard(any_store, 1)
    assert missing_shards(any_store, run.json) == [("attribute", "00000"), ("attribute", "00002")]
    with pytest.raises(ShardError, match=r"2 of 3 shards.*attribute/00000"):
        commit_run(any_store, run.json)
    assert find_commit(any_store, run.run_id) is None
    for number in (2, 0):
        run.write_shard(any_store, number)
    commit = commit_run(any_store, run.json)
    assert read_commit(any_store, run.run_id) == commit
    assert commit_run(any_store, run.json) == commit
    assert {name: table.rows for name, table in commit.tables.items()} == {
        "attributions": 24,
        "errors": 0,
        "maps": 24,
        "predictions": 12,
    }
    assert len(commit.tables["predictions"].files) == 1
    assert read_table(any_store, commit, "predictions")["row"].to_pylist() == list(range(12))
    assert read_table(any_store, commit, "errors").num_rows == 0
    assert np.array_equal(
        find_map(any_store, commit, "img-5", "saliency"), np.full((1, 4, 4), -5, np.float32)
    )
    assert verify_run(any_store, run.run_id).ok


def test_two_drivers_write_the_same_bytes(any_store: ObjectStore, small_run: Make) -> None:
    run = small_run()
    run.write(any_store)
    paths = RunPaths(run.run_id)
    first = any_store.get(paths.commit)
    compacted = {item.key for item in any_store.list(paths.data) if "/all-" in item.key}
    any_store.delete(paths.commit)
    second = open_store(any_store.spec)
    commit_run(second, run.json)
    assert any_store.get(paths.commit) == first
    assert {item.key for item in any_store.list(paths.data) if "/all-" in item.key} == compacted


def test_another_manifest_is_refused_and_writes_nothing(
    any_store: ObjectStore, small_run: Make
) -> None:
    run = small_run()
    run.write(any_store)
    before = {item.key: item.bytes for item in any_store.list("")}
    other = run.json | {"fingerprint": "a" * 64}
    with pytest.raises(ConflictError, match="another manifest"):
        create_run(any_store, other)
    with pytest.raises(ConflictError, match="another manifest"):
        commit_run(any_store, other)
    assert {item.key: item.bytes for item in any_store.list("")} == before


def test_an_edited_plan_is_a_conflict(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    local.put(RunPaths(run.run_id).run_json, b"{ not json")
    with pytest.raises(ConflictError):
        create_run(local, run.json)
    with pytest.raises(IntegrityError, match=r"run\.json"):
        read_run(local, run.run_id)


def test_no_run_and_no_commit(local: ObjectStore, small_run: Make) -> None:
    with pytest.raises(UsageError, match="no such run"):
        read_run(local, "nothing-00000000")
    with pytest.raises(UsageError, match="not complete"):
        read_commit(local, "nothing-00000000")
    run = small_run()
    create_run(local, run.json)
    with pytest.raises(UsageError, match="not complete"):
        open_query(local, run.run_id)


@pytest.mark.parametrize("damage", ["truncate", "empty", "edit", "swap"])
def test_readers_refuse_a_damaged_commit(local: ObjectStore, small_run: Make, damage: str) -> None:
    run, other = small_run(), small_run(seed=5)
    run.write(local)
    other.write(local)
    key = RunPaths(run.run_id).commit
    data = local.get(key) or b""
    damaged = {
        "truncate": data[: len(data) // 2],
        "empty": b"",
        "edit": data.replace(b'"rows":12', b'"rows":11', 1),
        "swap": local.get(RunPaths(other.run_id).commit) or b"",
    }[damage]
    assert damaged != data
    local.put(key, damaged)
    with pytest.raises(IntegrityError, match=r"_COMMIT\.json"):
        read_commit(local, run.run_id)
    with pytest.raises(IntegrityError, match=r"_COMMIT\.json"):
        open_query(local, run.run_id)
    with pytest.raises(IntegrityError, match=r"_COMMIT\.json"):
        commit_run(local, run.json)
    report = verify_run(local, run.run_id)
    assert not report.ok
    assert "_COMMIT.json" in report.problems[0]
    local.delete(key)
    commit_run(local, run.json)
    assert local.get(key) == data, "the advice in the error works"


@pytest.mark.parametrize("table", ["predictions", "maps"])
@pytest.mark.parametrize("damage", ["delete", "shorten", "flip"])
def test_readers_and_verify_find_damaged_files(
    local: ObjectStore, small_run: Make, table: str, damage: str
) -> None:
    run = small_run()
    commit = run.write(local)
    file = commit.tables[table].files[0]
    key = RunPaths(run.run_id).absolute(file.key)
    data = bytearray(local.get(key) or b"")
    if damage == "delete":
        local.delete(key)
    elif damage == "shorten":
        local.put(key, bytes(data[:-1]))
    else:
        data[len(data) // 3] ^= 1
        local.put(key, bytes(data))
    name = file.key.rpartition("/")[2]
    report = verify_run(local, run.run_id)
    assert not report.ok
    assert any(name in problem for problem in report.problems)
    with pytest.raises(IntegrityError, match=name):
        read_table(local, commit, table)
    if damage != "flip":
        with pytest.raises(IntegrityError, match=name):
            check_files(local, commit)
        with pytest.raises(IntegrityError, match=name):
            open_query(local, run.run_id)


def _with(run: SmallRun, **changes: Any) -> dict[str, Any]:
    return run.json | {"stages": [run.json["stages"][0] | changes]}


def test_what_does_not_add_up_is_not_committed(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    for number in range(3):
        run.write_shard(local, number)
    shards = [["00000", 4], ["00001", 4], ["00002", 5]]
    with pytest.raises(IntegrityError, match="00002: 4 rows, the plan says 5"):
        commit_run(local, _with(run, shards=shards))
    with pytest.raises(IntegrityError, match="predictions has 12 rows, the plan says 13"):
        commit_run(local, _with(run, expected_rows={"predictions": 13}))
    assert find_commit(local, run.run_id) is None
    commit_run(local, run.json)


def test_shards_that_share_rows_are_not_committed(local: ObjectStore, small_run: Make) -> None:
    run = small_run(shards=2)
    run.write_shard(local, 0)
    record = run.write_shard(local, 1)
    shared = record.to_json() | {"row_ranges": [[3, 7]]}
    local.put(RunPaths(run.run_id).record("attribute", "00001"), seal(shared))
    with pytest.raises(IntegrityError, match="00000 and 00001 both have row 3"):
        commit_run(local, run.json)


def test_an_altered_scalar_file_is_not_compacted(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    record = None
    for number in range(3):
        record = run.write_shard(local, number)
    assert record is not None
    key = RunPaths(run.run_id).absolute(record.tables["predictions"].files[0].key)
    data = bytearray(local.get(key) or b"")
    data[50] ^= 1
    local.put(key, bytes(data))
    with pytest.raises(IntegrityError, match="not the file that was written"):
        commit_run(local, run.json)
    local.delete(key)
    assert missing_shards(local, run.json) == [("attribute", "00002")]
    run.write_shard(local, 2)
    commit_run(local, run.json)


def test_reading_what_is_not_there(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    commit = run.write(local)
    with pytest.raises(UsageError, match="no table 'metrics'"):
        read_table(local, commit, "metrics")
    with pytest.raises(UsageError, match="no column"):
        read_table(local, commit, "predictions", ["row", "nope"])
    for sample, method in (("img-99", METHODS[0]), ("img-1", "nope")):
        with pytest.raises(UsageError, match="no map"):
            find_map(local, commit, sample, method)


def test_nothing_is_listed_to_read_or_commit(
    local: ObjectStore, small_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(prefix: str) -> None:
        raise AssertionError(f"listed {prefix}")

    monkeypatch.setattr(local.backend, "list", refuse)
    monkeypatch.setattr(local.backend, "children", refuse)
    run = small_run()
    commit = run.write(local)
    assert read_table(local, commit, "maps").num_rows == 24
    assert verify_run(local, run.run_id).ok


def test_sealed_json_round_trips_and_notices() -> None:
    value = {"format": "f", "text": "é\u2028", "number": 0.1, "list": [1, None, True]}
    data = seal(value)
    assert unseal(data, "f") == value
    assert seal(unseal(data, "f")) == data
    for broken in (
        data[:-3],
        data.replace(b"0.1", b"0.2"),
        b"[]",
        b"{}",
        json.dumps(value).encode(),
    ):
        with pytest.raises(ValueError, match=r"JSON|format|digest"):
            unseal(broken, "f")
    with pytest.raises(ValueError, match="format"):
        unseal(data, "g")


def test_many_shards_commit_quickly(
    local: ObjectStore, small_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At this rate 10 000 shards take far less than the 60 s that are allowed."""
    run = small_run(shards=200, rows=2)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    create_run(local, run.json)
    for number in range(200):
        run.write_shard(local, number)
    start = time.process_time()
    commit = commit_run(local, run.json)
    assert time.process_time() - start < 60 * 200 / 10_000 * 5
    assert commit.tables["predictions"].rows == 400


def test_drivers_with_other_checks_commit_the_same_run(local: ObjectStore, small_run: Make) -> None:
    first, second = small_run(), small_run()
    for run, bound in ((first, 1), (second, 2)):
        run.json["manifest"] = {**run.json["manifest"], "checks": [{"at_least": bound}]}
    assert create_run(local, first.json) == "created"
    assert create_run(local, second.json) == "exists"
    for number in range(first.shards):
        first.write_shard(local, number)
    commit = commit_run(local, second.json)
    assert commit.run_sha256 == digest_bytes(run_bytes(first.json))
    assert read_run(local, first.run_id)["manifest"]["checks"] == [{"at_least": 1}]
    assert verify_run(local, first.run_id).ok


def test_another_change_of_run_json_is_found(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    edited = {**run.json, "inputs": {"data": "other"}}
    assert create_run(local, edited) == "created"
    for number in range(run.shards):
        run.write_shard(local, number)
    commit_run(local, run.json)
    report = verify_run(local, run.run_id)
    assert not report.ok
    assert "is not the plan that was committed" in report.problems[0]
