"""From shard records to a commit: the only thing that a reader trusts.

``_COMMIT.json`` is a pure function of ``run.json`` and the shard records. Two drivers that commit
the same run write the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gradattr.canonical import digest_bytes
from gradattr.errors import ConflictError, IntegrityError, ShardError, UsageError
from gradattr.plan import PROTOCOL_VERSION
from gradattr.storage.compaction import compact
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.rowids import overlap
from gradattr.storage.run_json import stored_run
from gradattr.storage.schemas import BULK_TABLES
from gradattr.storage.sealed import seal, unseal
from gradattr.storage.shards import FileEntry, ShardRecord, TableEntry, read_record

COMMIT_FORMAT = "gradattr/commit"
#: Requests in flight at once while records are read.
THREADS = 16
_NAMED = 5

ShardName = tuple[str, str]


@dataclass(frozen=True)
class Commit:
    """A committed run: its tables and every shard's record."""

    run_id: str
    fingerprint: str
    run_sha256: str
    """Digest of ``run.json``."""
    rows: dict[str, int]
    """Input rows by stage."""
    tables: dict[str, TableEntry]
    """What readers open: compacted scalar tables, bulk tables as the tasks wrote them."""
    records: tuple[ShardRecord, ...]
    """In the order of the plan."""

    def to_json(self) -> dict[str, Any]:
        files = [file for table in self.tables.values() for file in table.files]
        return {
            "format": COMMIT_FORMAT,
            "protocol": PROTOCOL_VERSION,
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "run_sha256": self.run_sha256,
            "rows": self.rows,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            "shards": [record.to_json() for record in self.records],
            "totals": {
                "shards": len(self.records),
                "files": len(files),
                "bytes": sum(file.bytes for file in files),
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Commit:
        return cls(
            run_id=value["run_id"],
            fingerprint=value["fingerprint"],
            run_sha256=value["run_sha256"],
            rows=dict(value["rows"]),
            tables={name: TableEntry.from_json(t) for name, t in value["tables"].items()},
            records=tuple(ShardRecord.from_json(record) for record in value["shards"]),
        )

    @property
    def bytes(self) -> int:
        """Bytes of the tables' files."""
        return sum(file.bytes for table in self.tables.values() for file in table.files)

    @property
    def bad_rows(self) -> int:
        """Input rows without a result, over all stages."""
        return sum(int(record.extra.get("bad_rows", 0)) for record in self.records)

    @property
    def size(self) -> tuple[int, str]:
        """What the run is about, and what it is counted in: 'rows' of the last stage's input; of
        kind tfa 'queries'; of an audit 'jobs'."""
        for unit in ("queries", "jobs"):
            if unit in self.tables:
                return self.tables[unit].rows, unit
        return self.rows[self.records[-1].stage], "rows"

    def all_files(self) -> dict[str, FileEntry]:
        """Every file that the commit names, by key relative to the run directory."""
        named = [file for table in self.tables.values() for file in table.files]
        named += [file for record in self.records for file in record.files()]
        return {file.key: file for file in named}


def read_commit(store: ObjectStore, run_id: str) -> Commit:
    """The commit of a run.

    UsageError if there is none (no such run, or it is not complete). IntegrityError if it was cut
    short or edited.
    """
    commit = find_commit(store, run_id)
    if commit is None:
        url = store.url(RunPaths(run_id).commit)
        raise UsageError(f"{url}: the run does not exist or is not complete; run it (again) first")
    return commit


def find_commit(store: ObjectStore, run_id: str) -> Commit | None:
    """The commit of a run, or None. IntegrityError if it was cut short or edited."""
    data = store.get(RunPaths(run_id).commit)
    return None if data is None else parse_commit(store, run_id, data)


def parse_commit(store: ObjectStore, run_id: str, data: bytes) -> Commit:
    """A run's commit from its bytes. IntegrityError if they were cut short or edited."""
    key = RunPaths(run_id).commit
    try:
        commit = Commit.from_json(unseal(data, COMMIT_FORMAT))
        if commit.run_id != run_id:
            raise ValueError(f"belongs to the run {commit.run_id}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{store.url(key)}: {error}. Nothing of the run can be trusted by it; delete this file "
            "and run the same command again: it is rebuilt from the shard records"
        ) from None
    return commit


def planned_shards(run_json: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(stage, shard, rows) in the order of the plan."""
    return [
        (stage["name"], key, rows) for stage in run_json["stages"] for key, rows in stage["shards"]
    ]


def read_records(
    store: ObjectStore, run_json: Mapping[str, Any], *, check: str = "all"
) -> Iterator[tuple[ShardName, ShardRecord | None]]:
    """Every planned shard's record, or None, in the order of the plan; several at once."""
    run_id, fingerprint = run_json["run_id"], run_json["fingerprint"]

    def one(planned: tuple[str, str, int]) -> tuple[ShardName, ShardRecord | None]:
        stage, key, _ = planned
        return (stage, key), read_record(store, run_id, fingerprint, stage, key, check=check)

    todo = iter(planned_shards(run_json))
    with ThreadPoolExecutor(THREADS) as pool:
        # In slices, so that a failure is not followed by thousands of further requests.
        while part := list(islice(todo, 32 * THREADS)):
            yield from pool.map(one, part)


def missing_shards(store: ObjectStore, run_json: Mapping[str, Any]) -> list[ShardName]:
    """(stage, shard) of every planned shard without a record that counts, in plan order."""
    return [name for name, record in read_records(store, run_json) if record is None]


def commit_run(store: ObjectStore, run_json: Mapping[str, Any]) -> Commit:
    """Commit a run whose shards are all there; of a committed run, return the commit.

    ShardError: shards are missing (run the same command again). IntegrityError: the records do not
    add up to the plan. ConflictError: the directory belongs to another run.
    """
    run_id, fingerprint = run_json["run_id"], run_json["fingerprint"]
    existing = find_commit(store, run_id)
    if existing is not None:
        return _same_run(store, existing, fingerprint)
    records = _complete(store, run_json)
    _check_plan(run_json, records)
    tables = _tables(store, run_json, records)
    commit = Commit(
        run_id=run_id,
        fingerprint=fingerprint,
        run_sha256=digest_bytes(stored_run(store, run_json)),
        rows=_rows_by_stage(run_json),
        tables=tables,
        records=tuple(records),
    )
    key = RunPaths(run_id).commit
    if not store.put_new(key, seal(commit.to_json())):
        existing = read_commit(store, run_id)
        return _same_run(store, existing, fingerprint)
    return commit


def _same_run(store: ObjectStore, commit: Commit, fingerprint: str) -> Commit:
    if commit.fingerprint != fingerprint:
        url = store.url(RunPaths(commit.run_id).commit)
        raise ConflictError(f"{url}: belongs to another manifest, model or data set")
    return commit


def _complete(store: ObjectStore, run_json: Mapping[str, Any]) -> list[ShardRecord]:
    records, missing = [], []
    for (stage, key), record in read_records(store, run_json, check="bulk"):
        if record is None:
            missing.append(f"{stage}/{key}")
        else:
            records.append(record)
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise ShardError(
            f"run {run_json['run_id']}: {len(missing)} of {len(missing) + len(records)} shards "
            f"have no valid record ({named}); run the same command again"
        )
    return records


def _check_plan(run_json: Mapping[str, Any], records: list[ShardRecord]) -> None:
    run = f"run {run_json['run_id']}"
    for (stage, key, rows), record in zip(planned_shards(run_json), records, strict=True):
        if record.rows != rows:
            raise IntegrityError(
                f"{run}, stage {stage}, shard {key}: {record.rows} rows, the plan says {rows}"
            )
    for stage in run_json["stages"]:
        own = [record for record in records if record.stage == stage["name"]]
        shared = overlap((record.shard, record.row_ranges) for record in own)
        if shared:
            raise IntegrityError(
                f"{run}, stage {stage['name']}: shards {shared[0]} and {shared[1]} both have row "
                f"{shared[2]}"
            )
        for table, expected in stage["expected_rows"].items():
            found = sum(r.tables[table].rows for r in own if table in r.tables)
            if found != expected:
                raise IntegrityError(
                    f"{run}, stage {stage['name']}: table {table} has {found} rows, the plan says "
                    f"{expected}"
                )


def _rows_by_stage(run_json: Mapping[str, Any]) -> dict[str, int]:
    return {stage["name"]: sum(rows for _, rows in stage["shards"]) for stage in run_json["stages"]}


def _tables(
    store: ObjectStore, run_json: Mapping[str, Any], records: list[ShardRecord]
) -> dict[str, TableEntry]:
    planned = {table for stage in run_json["stages"] for table in stage["tables"]}
    names = planned | {name for record in records for name in record.tables}
    tables = {}
    for name in sorted(names):
        parts = [record.tables[name] for record in records if name in record.tables]
        files = tuple(file for part in parts for file in part.files)
        schemas = {part.schema for part in parts}
        if len(schemas) > 1:
            raise IntegrityError(
                f"run {run_json['run_id']}: table {name} has {len(schemas)} schemas; its shards "
                "were written by different versions of gradattr"
            )
        if name not in BULK_TABLES:
            files = compact(store, run_json["run_id"], run_json["fingerprint"], name, files)
        rows = sum(file.rows for file in files)
        tables[name] = TableEntry(rows, next(iter(schemas), ""), files)
    return tables
