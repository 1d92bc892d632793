"""Shard records: what counts and what is as if it were absent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradattr.canonical import digest_bytes
from gradattr.errors import UsageError
from gradattr.storage import parquet
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.rowids import overlap, ranges_of
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardRecord, ShardWriter, parse_record, read_record

from .conftest import SmallRun

Make = Callable[..., SmallRun]


def read(store: ObjectStore, run: SmallRun, number: int = 0) -> ShardRecord | None:
    fingerprint = run.json["fingerprint"]
    return read_record(store, run.run_id, fingerprint, "attribute", f"{number:05d}")


def test_a_finished_shard_reads_back(any_store: ObjectStore, small_run: Make) -> None:
    run = small_run()
    record = run.write_shard(any_store, 1)
    assert read(any_store, run, 1) == record
    assert record.row_ranges == ((4, 8),)
    assert {name: table.rows for name, table in record.tables.items()} == {
        "attributions": 8,
        "maps": 8,
        "predictions": 4,
    }
    paths = RunPaths(run.run_id)
    for file in record.files():
        data = any_store.get(paths.absolute(file.key))
        assert data is not None
        assert (len(data), digest_bytes(data)) == (file.bytes, file.sha256)
        assert file.sha256[:16] in file.key
    assert read(any_store, run, 0) is None


def test_how_parquet_is_written(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    record = run.write_shard(local, 0)
    path = local.local_path(RunPaths(run.run_id).absolute(record.tables["maps"].files[0].key))
    assert path is not None
    file = pq.ParquetFile(path, page_checksum_verification=True)
    metadata = file.schema_arrow.metadata
    assert metadata[b"gradattr.run_id"].decode() == run.run_id
    assert metadata[b"gradattr.fingerprint"].decode() == run.json["fingerprint"]
    assert metadata[b"gradattr.shard"] == b"00000"
    assert metadata[b"gradattr.schema_version"] == b"1"
    group = file.metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        assert column.compression == "ZSTD"
        assert "BYTE_STREAM_SPLIT" not in column.encodings
    assert not any(pa.types.is_dictionary(field.type) for field in file.schema_arrow)


def test_a_second_attempt_keeps_the_first_record(any_store: ObjectStore, small_run: Make) -> None:
    run = small_run()
    first = run.write_shard(any_store, 0)
    second = run.write_shard(any_store, 0, jitter=0.5)
    assert second == first
    assert read(any_store, run) == first


@pytest.mark.parametrize("damage", ["truncate", "empty", "edit", "digest", "junk", "foreign"])
def test_a_damaged_record_counts_as_absent_and_is_replaced(
    local: ObjectStore, small_run: Make, damage: str
) -> None:
    run = small_run()
    run.write_shard(local, 0)
    key = RunPaths(run.run_id).record("attribute", "00000")
    data = local.get(key)
    assert data is not None
    value = json.loads(data)
    damaged = {
        "truncate": data[:-40],
        "empty": b"",
        "edit": json.dumps(value | {"rows": 5}).encode(),
        "digest": json.dumps(value | {"digest": "0" * 64}).encode(),
        "junk": b"\xff\xfe[1,2",
        "foreign": small_run(seed=9).write_shard(local, 0).to_json(),
    }[damage]
    local.put(key, damaged if isinstance(damaged, bytes) else json.dumps(damaged).encode())
    assert read(local, run) is None
    again = run.write_shard(local, 0)
    assert read(local, run) == again


@pytest.mark.parametrize("damage", ["delete", "shorten"])
def test_a_record_whose_file_is_gone_or_cut_counts_as_absent(
    local: ObjectStore, small_run: Make, damage: str
) -> None:
    run = small_run()
    record = run.write_shard(local, 0)
    key = RunPaths(run.run_id).absolute(record.tables["predictions"].files[0].key)
    if damage == "delete":
        local.delete(key)
    else:
        local.put(key, (local.get(key) or b"")[:-1])
    assert read(local, run) is None
    again = run.write_shard(local, 0)
    assert again != record
    assert read(local, run) == again


def test_another_runs_record_does_not_count(local: ObjectStore, small_run: Make) -> None:
    run = small_run()
    record = run.write_shard(local, 0)
    assert read_record(local, run.run_id, "f" * 64, "attribute", "00000") is None
    key = RunPaths(run.run_id).record("attribute", "00000")
    local.put(RunPaths(run.run_id).record("attribute", "00001"), local.get(key) or b"")
    assert read(local, run, 1) is None
    assert parse_record(b"{}") is None
    assert record.to_json() == ShardRecord.from_json(record.to_json()).to_json()


def _predictions(rows: list[int]) -> pa.Table:
    columns = {"row": rows, "sample_id": [str(r) for r in rows], "status": ["ok"] * len(rows)}
    return make_table("predictions", columns)


@pytest.mark.parametrize(
    ("rows", "ids", "reason"),
    [
        ([0, 1, 1, 3], range(4), "twice"),
        ([0, 1, 2], range(4), "row 3"),
        ([0, 1, 2, 4], range(4), "row 3"),
        ([0, 1, 2, 3], [0, 1, 2, 2], "twice"),
        ([0, 1, 2, 3], range(3), "3 row ids for 4 rows"),
    ],
)
def test_every_row_once_or_the_shard_is_refused(
    local: ObjectStore, small_run: Make, rows: list[int], ids: list[int], reason: str
) -> None:
    run = small_run()
    writer = run.writer(local, 0)
    writer.append("predictions", _predictions(rows))
    with pytest.raises(UsageError, match=reason):
        writer.finish(4, ids, {})
    assert read(local, run) is None


def test_a_method_that_lacks_a_row_is_refused(local: ObjectStore, small_run: Make) -> None:
    writer = small_run().writer(local, 0)
    columns = {
        "row": [0, 1, 0],
        "sample_id": ["a", "b", "a"],
        "method": ["m", "m", "n"],
        "status": ["ok"] * 3,
        "target": ["logit_pred"] * 3,
        "evaluations": [1] * 3,
    }
    writer.append("attributions", make_table("attributions", columns))
    with pytest.raises(UsageError, match="attributions"):
        writer.finish(2, range(2), {})


def test_a_foreign_schema_is_refused(local: ObjectStore, small_run: Make) -> None:
    writer = small_run().writer(local, 0)
    with pytest.raises(UsageError, match=r"predictions.*schema"):
        writer.append("predictions", pa.table({"row": [1]}))
    with pytest.raises(UsageError, match="cannot be part of a path"):
        writer.append("../x", pa.table({"row": [1]}))
        writer.finish(1, [1], {})


def test_a_stage_without_rows(local: ObjectStore, small_run: Make) -> None:
    writer = small_run().writer(local, 0)
    columns = {"model": ["main"] * 2, "epoch": [1, 2], "loss": [0.5, 0.25]}
    writer.append("training", make_table("training", columns))
    record = writer.finish(1, None, {"model": "x"})
    assert (record.rows, record.row_ranges) == (1, ())
    assert record.extra == {"model": "x"}


def test_large_tables_roll_over_into_several_files(
    local: ObjectStore, small_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FILE_BYTES", 1000)
    monkeypatch.setattr(parquet, "_SCALAR_GROUP_ROWS", 100)
    run = small_run(shards=1, rows=1000)
    record = run.write_shard(local, 0)
    files = record.tables["predictions"].files
    assert len(files) > 3
    assert sum(file.rows for file in files) == 1000
    assert read(local, run) == record


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_the_bytes_do_not_depend_on_how_rows_are_appended(cuts: list[int]) -> None:
    whole = _predictions(list(range(sum(cuts))))

    def write(parts: list[pa.Table]) -> list[tuple[bytes, int]]:
        writer = parquet.TableWriter(whole.schema, {}, 0)
        writer._group = 50
        done = [file for part in parts for file in writer.append(part)]
        return done + writer.finish()

    starts = [sum(cuts[:n]) for n in range(len(cuts))]
    parts = [whole.slice(start, cut) for start, cut in zip(starts, cuts, strict=True)]
    assert write(parts) == write([whole])


@given(st.sets(st.integers(0, 60)))
def test_ranges_are_the_same_set(rows: set[int]) -> None:
    ranges = ranges_of(sorted(rows, key=lambda r: (r * 7) % 61))
    assert {row for start, stop in ranges for row in range(start, stop)} == rows
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))


@given(st.lists(st.sets(st.integers(0, 20), max_size=6), max_size=5))
def test_overlap_is_found_where_there_is_one(sets: list[set[int]]) -> None:
    found = overlap((str(n), ranges_of(rows)) for n, rows in enumerate(sets))
    disjoint = sum(map(len, sets)) == len(set().union(*sets))
    assert (found is None) == disjoint
    if found:
        assert found[2] in sets[int(found[0])] & sets[int(found[1])]


def test_a_table_without_row_numbers_holds_each_key_once(local: ObjectStore) -> None:
    cells = {
        "scheme": ["random", "random"],
        "method": ["random", "random"],
        "learner": ["a", "a"],
        "variant": ["retrain", "retrain"],
        "level": [0.5, 0.5],
        "arm": ["top", "bottom"],
        "n": [5, 5],
        "mean": [0.4, 0.3],
    }
    writer = ShardWriter(local, "scored-00000000", "0" * 64, "score", "scores")
    writer.append("pred_power", make_table("pred_power", cells))
    assert writer.finish(1, None).tables["pred_power"].rows == 2
    writer = ShardWriter(local, "scored-00000000", "0" * 64, "score", "again")
    writer.append("pred_power", make_table("pred_power", {**cells, "arm": ["top", "top"]}))
    with pytest.raises(UsageError, match="table pred_power: 1 rows stand there twice"):
        writer.finish(1, None)
