"""Reading a run without SQL: whole tables, single maps, a stage's shards; every byte verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gradattr.errors import IntegrityError, ShardError, UsageError
from gradattr.storage.commit import THREADS, Commit, read_records
from gradattr.storage.compaction import read_verified
from gradattr.storage.layout import RunPaths
from gradattr.storage.maps import decode_map
from gradattr.storage.objects import ObjectStore
from gradattr.storage.schemas import MAP_CHOICE, MAPS, TABLES, table_schema
from gradattr.storage.shards import FileEntry, ShardRecord
from gradattr.storage.tfa_tables import TFA_LAYER_MAPS, TFA_MAPS


def check_files(store: ObjectStore, commit: Commit) -> None:
    """IntegrityError, naming the file, unless every table's file is there in its full size."""
    paths = RunPaths(commit.run_id)
    files = [file for table in commit.tables.values() for file in table.files]

    def wrong(file: FileEntry) -> str | None:
        info = store.head(paths.absolute(file.key))
        if info is not None and info.bytes == file.bytes:
            return None
        found = "is missing" if info is None else f"has {info.bytes} bytes"
        return f"{store.url(paths.absolute(file.key))}: {found}, expected {file.bytes} bytes"

    with ThreadPoolExecutor(THREADS) as pool:
        problems = [text for text in pool.map(wrong, files) if text]
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise IntegrityError(
            f"{problems[0]}{more}; the run {commit.run_id} is damaged. To compute it anew, delete "
            f"{store.url(paths.commit)} and run the same command again"
        )


def read_table(
    store: ObjectStore, commit: Commit, name: str, columns: list[str] | None = None
) -> pa.Table:
    """A whole table of a committed run, in the order of the plan; size and digests verified.

    Maps of a large run do not fit into memory: use SQL, ``find_map``, or ``columns``. UsageError:
    no such table or column. IntegrityError: a file is missing or altered.
    """
    if name not in commit.tables and name not in TABLES:
        raise UsageError(f"run {commit.run_id} has no table {name!r}; it has {_names(commit)}")
    paths = RunPaths(commit.run_id)
    entry = commit.tables.get(name)
    parts = [_read(store, paths, file, columns) for file in entry.files] if entry else []
    if not parts:
        schema = table_schema(name)
        table = schema.empty_table()
        return table.select(columns) if columns else table
    table = pa.concat_tables(parts)
    missing = sorted(set(columns or ()) - set(table.schema.names))
    if missing:
        raise UsageError(f"table {name} has no column {', '.join(missing)}")
    return table


def read_stage(
    store: ObjectStore, run_json: Mapping[str, Any], stage: str, table: str
) -> list[tuple[ShardRecord, pa.Table]]:
    """Each shard of a stage with its part of a scalar table, in the order of the plan.

    For a stage that builds on an earlier one of the same run, which is not committed yet.
    ShardError: a shard has no valid record, or its file is missing. IntegrityError: altered bytes.
    """
    alone = {**run_json, "stages": [s for s in run_json["stages"] if s["name"] == stage]}
    paths = RunPaths(run_json["run_id"])
    records = []
    for (_, key), record in read_records(store, alone, check="bulk"):
        if record is None:
            url = store.url(paths.record(stage, key))
            raise ShardError(f"{url}: no valid record of this run; run the same command again")
        records.append(record)

    def read(record: ShardRecord) -> pa.Table:
        entry = record.tables.get(table)
        parts = [read_verified(store, paths, file) for file in entry.files] if entry else []
        return pa.concat_tables(parts) if parts else table_schema(table).empty_table()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(zip(records, pool.map(read, records), strict=True))


def find_map(store: ObjectStore, commit: Commit, sample_id: str, method: str) -> np.ndarray:
    """The map (channels, height, width), float32, of one sample by one method.

    UsageError: no such sample or method, or it has no map (its status is named).
    """
    if not commit.tables.get(MAPS.name) or not commit.tables[MAPS.name].files:
        raise UsageError(f"run {commit.run_id} has no maps (store.maps: none)")
    paths = RunPaths(commit.run_id)
    for file in _files_of(store, commit, sample_id):
        table = _read(store, paths, file, None)
        same = pc.and_(pc.equal(table["sample_id"], sample_id), pc.equal(table["method"], method))
        found = table.filter(same).to_pylist()
        if not found:
            continue
        choice = (table.schema.metadata or {}).get(MAP_CHOICE, b"").decode()
        values = decode_map(found[0], choice)
        if values is None:
            raise UsageError(
                f"run {commit.run_id}: {sample_id!r} has no map by {method!r}: its status is "
                f"{found[0]['status']!r}"
            )
        return values
    raise UsageError(f"run {commit.run_id}: no map of sample {sample_id!r} by method {method!r}")


def _files_of(store: ObjectStore, commit: Commit, sample_id: str) -> list[FileEntry]:
    """Files that can hold the sample's maps: those of the shards that have its row."""
    rows: set[int] | None = None
    if "predictions" in commit.tables:
        index = read_table(store, commit, "predictions", ["row", "sample_id"])
        rows = set(index.filter(pc.equal(index["sample_id"], sample_id))["row"].to_pylist())
    return [
        file
        for record in commit.records
        if MAPS.name in record.tables
        and (rows is None or any(a <= row < b for row in rows for a, b in record.row_ranges))
        for file in record.tables[MAPS.name].files
    ]


@dataclass(frozen=True)
class MapFile:
    """A file of maps, and which rows can be in it."""

    file: FileEntry
    row_ranges: tuple[tuple[int, int], ...]
    """[start, stop) ranges of the rows of its shard."""


def map_files(commit: Commit) -> list[MapFile]:
    """The files of the table ``maps``, in the order of the plan."""
    return [
        MapFile(file, record.row_ranges)
        for record in commit.records
        if MAPS.name in record.tables
        for file in record.tables[MAPS.name].files
    ]


def read_map_file(store: ObjectStore, commit: Commit, file: FileEntry) -> pa.Table:
    """A file of maps, verified. IntegrityError if it is missing or altered."""
    return _read(store, RunPaths(commit.run_id), file, None)


def decoded_maps(table: pa.Table) -> Iterator[tuple[str, str, np.ndarray]]:
    """(sample id, method, map (channels, height, width) float32) of the rows of a table of maps
    that have one."""
    choice = (table.schema.metadata or {}).get(MAP_CHOICE, b"").decode()
    table = table.filter(pc.is_valid(table["channels"]))
    names = [name for name in table.schema.names if name not in ("map", "error")]
    rows = table.select(names).to_pylist()
    stored = table["map"].combine_chunks() if "map" in table.schema.names else None
    if isinstance(stored, pa.FixedShapeTensorArray):
        stored = stored.to_numpy_ndarray()  # a list of Python numbers would take a hundred times
    for at, row in enumerate(rows):
        if stored is not None:
            row["map"] = stored[at] if isinstance(stored, np.ndarray) else stored[at].as_py()
        values = decode_map(row, choice)
        if values is not None:
            yield row["sample_id"], row["method"], values


@dataclass(frozen=True)
class TrainingMap:
    """The map of a training image, of one of a query's pairs."""

    train_id: str
    method: str
    """The score that chose the image."""
    side: str
    rank: int
    map_method: str
    values: np.ndarray | None
    """(channels, height, width) float32; (1, height, width) of a layer. None: there is no map."""
    status: str


def training_maps(store: ObjectStore, commit: Commit, query: int) -> list[TrainingMap]:
    """Every map of a query's training images, as the tables hold them. Only files of shards that
    have the query are opened."""
    paths = RunPaths(commit.run_id)
    found: list[TrainingMap] = []
    for name in (TFA_MAPS.name, TFA_LAYER_MAPS.name):
        for record in commit.records:
            ranges = record.row_ranges
            if name not in record.tables or (
                ranges and not any(start <= query < stop for start, stop in ranges)
            ):
                continue
            for file in record.tables[name].files:
                table = _read(store, paths, file, None)
                choice = (table.schema.metadata or {}).get(MAP_CHOICE, b"").decode()
                for row in table.filter(pc.equal(table["query"], query)).to_pylist():
                    keys = ("train_id", "method", "side", "rank", "map_method", "status")
                    values = decode_map(row, choice)
                    found.append(TrainingMap(**{key: row[key] for key in keys}, values=values))
    return found


def _read(
    store: ObjectStore, paths: RunPaths, file: FileEntry, columns: list[str] | None
) -> pa.Table:
    try:
        return read_verified(store, paths, file, columns)
    except ShardError:
        raise IntegrityError(
            f"{store.url(paths.absolute(file.key))}: is missing although the commit names it"
        ) from None


def _names(commit: Commit) -> str:
    return ", ".join(commit.tables)
