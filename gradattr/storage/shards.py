"""What a task leaves behind: data files, and after them the record that names them.

A record counts only if it parses, its digest is right, it belongs to this run, and every file it
names is there in its full size. Anything else is as if it were absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import StoreError, UsageError
from gradattr.plan import PROTOCOL_VERSION
from gradattr.storage.layout import RunPaths, new_nonce
from gradattr.storage.objects import ObjectStore
from gradattr.storage.parquet import TableWriter, row_bytes
from gradattr.storage.rowids import check_rows, ranges_of
from gradattr.storage.schemas import BULK_TABLES, TABLES, schema_digest, table_schema
from gradattr.storage.sealed import seal, unseal

SHARD_FORMAT = "gradattr/shard"


@dataclass(frozen=True)
class FileEntry:
    """A data file: key relative to the run directory, size, digest, rows."""

    key: str
    bytes: int
    sha256: str
    rows: int

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "bytes": self.bytes, "sha256": self.sha256, "rows": self.rows}


@dataclass(frozen=True)
class TableEntry:
    """A table's files in one shard, or in a whole run."""

    rows: int
    schema: str
    files: tuple[FileEntry, ...]

    def to_json(self) -> dict[str, Any]:
        files = [file.to_json() for file in self.files]
        return {"rows": self.rows, "schema": self.schema, "files": files}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TableEntry:
        files = tuple(FileEntry(**file) for file in value["files"])
        return cls(value["rows"], value["schema"], files)


@dataclass(frozen=True)
class ShardRecord:
    """What one task has done."""

    run_id: str
    fingerprint: str
    stage: str
    shard: str
    rows: int
    """Input rows, good and bad."""
    row_ranges: tuple[tuple[int, int], ...]
    """[start, stop) ranges of row numbers, ascending; empty for a stage without rows."""
    row_digest: str
    tables: dict[str, TableEntry]
    extra: dict[str, Any] = field(default_factory=dict)
    """What the task reports besides: counts by status, evaluations, model digest, ... JSON."""

    def to_json(self) -> dict[str, Any]:
        return {
            "format": SHARD_FORMAT,
            "protocol": PROTOCOL_VERSION,
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "stage": self.stage,
            "shard": self.shard,
            "rows": self.rows,
            "row_ranges": [list(pair) for pair in self.row_ranges],
            "row_digest": self.row_digest,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            "extra": self.extra,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardRecord:
        return cls(
            run_id=value["run_id"],
            fingerprint=value["fingerprint"],
            stage=value["stage"],
            shard=value["shard"],
            rows=value["rows"],
            row_ranges=tuple((start, stop) for start, stop in value["row_ranges"]),
            row_digest=value["row_digest"],
            tables={name: TableEntry.from_json(t) for name, t in value["tables"].items()},
            extra=value["extra"],
        )

    def files(self, *, bulk_only: bool = False) -> list[FileEntry]:
        """Every file of the shard; with ``bulk_only`` those that stay as they are at commit."""
        return [
            file
            for name, table in self.tables.items()
            if not bulk_only or name in BULK_TABLES
            for file in table.files
        ]

    def outside_files(self) -> list[FileEntry]:
        """Files outside the run directory that the shard depends on (a trained model), from
        ``extra["files"]``; keys from the store's root."""
        return [
            FileEntry(file["key"], file["bytes"], file["sha256"], 0)
            for file in self.extra.get("files", [])
        ]


class ShardWriter:
    """Writes one shard: ``append`` tables, then ``finish``. Nothing counts before ``finish``.

    Holds at most one unfinished file (48 MB) and one row group per table in memory. An attempt that
    dies leaves files that nothing names; ``gc`` removes them.
    """

    def __init__(
        self, store: ObjectStore, run_id: str, fingerprint: str, stage: str, key: str
    ) -> None:
        self._store = store
        self._paths = RunPaths(run_id)
        self._paths.record(stage, key)
        self._fingerprint, self._stage, self._shard = fingerprint, stage, key
        self._writers: dict[str, TableWriter] = {}
        self._files: dict[str, list[FileEntry]] = {}
        self._keys: dict[str, list[pa.Table]] = {}

    def append(self, table_name: str, table: pa.Table | pa.RecordBatch) -> None:
        """Add rows to a table. UsageError: not the table's schema. StoreError: cannot write."""
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        if not table.num_rows:
            return
        table = self._conform(table_name, table)
        spec = TABLES.get(table_name)
        names = [name for name in (spec.key if spec else ()) if name in table.schema.names]
        if names:
            self._keys.setdefault(table_name, []).append(table.select(names))
        self._put(table_name, self._writers[table_name].append(table))

    def finish(
        self,
        rows: int,
        row_ids: range | Iterable[int] | None,
        extra: Mapping[str, Any] | None = None,
    ) -> ShardRecord:
        """Write what is left, then the record; returns the record that now counts.

        ``row_ids``: the shard's ``rows`` row numbers (None: a stage without rows). Every table
        with a ``row`` column, but ``errors``, must hold each of them, once per method where it has
        methods; UsageError if not. If another attempt has finished already, its record stays.
        """
        for name, writer in self._writers.items():
            self._put(name, writer.finish())
        ranges = ranges_of(row_ids if row_ids is not None else ())
        count = sum(stop - start for start, stop in ranges)
        where = f"stage {self._stage}, shard {self._shard}"
        if row_ids is not None and count != rows:
            raise UsageError(f"{where}: {count} row ids for {rows} rows")
        for name, parts in self._keys.items():
            check_rows(f"{where}, table {name}", pa.concat_tables(parts), ranges)
        record = ShardRecord(
            run_id=self._paths.run_id,
            fingerprint=self._fingerprint,
            stage=self._stage,
            shard=self._shard,
            rows=rows,
            row_ranges=ranges,
            row_digest=digest_json(ranges),
            tables={name: self._entry(name) for name in sorted(self._writers)},
            extra=dict(extra or {}),
        )
        return self._publish(record)

    def _publish(self, record: ShardRecord) -> ShardRecord:
        key, data = self._paths.record(self._stage, self._shard), seal(record.to_json())
        for _ in range(2):
            if self._store.put_new(key, data):
                return record
            existing = read_record(
                self._store, record.run_id, self._fingerprint, self._stage, self._shard
            )
            if existing is not None:
                return existing
            # What is there counts as absent, so it may be replaced.
            self._store.put(key, data)
        raise StoreError(f"{self._store.url(key)}: the shard record cannot be written")

    def _conform(self, name: str, table: pa.Table) -> pa.Table:
        writer = self._writers.get(name)
        if writer is None:
            known = name in TABLES and name not in BULK_TABLES
            schema = table_schema(name) if known else table.schema
            self._writers[name] = writer = TableWriter(
                schema, self._metadata(name), row_bytes(table)
            )
            self._files[name] = []
        wanted = writer.schema
        if table.schema.equals(wanted, check_metadata=False):
            return pa.Table.from_arrays(table.columns, schema=wanted)
        try:
            return table.select(wanted.names).cast(wanted)
        except (KeyError, pa.ArrowException) as error:
            raise UsageError(f"table {name}: does not fit its schema ({error})") from None

    def _metadata(self, table: str) -> dict[str, str]:
        return {
            "gradattr.run_id": self._paths.run_id,
            "gradattr.fingerprint": self._fingerprint,
            "gradattr.stage": self._stage,
            "gradattr.shard": self._shard,
            "gradattr.table": table,
        }

    def _put(self, table: str, files: list[tuple[bytes, int]]) -> None:
        for data, rows in files:
            sha256 = digest_bytes(data)
            key = self._paths.data_file(table, self._shard, sha256, new_nonce())
            self._store.put_unique(self._paths.absolute(key), data)
            self._files[table].append(FileEntry(key, len(data), sha256, rows))

    def _entry(self, table: str) -> TableEntry:
        files = tuple(self._files[table])
        schema = schema_digest(self._writers[table].schema)
        return TableEntry(sum(file.rows for file in files), schema, files)


def read_record(
    store: ObjectStore,
    run_id: str,
    fingerprint: str,
    stage: str,
    key: str,
    *,
    check: str = "all",
) -> ShardRecord | None:
    """The shard's record if it counts, else None.

    ``check``: 'all' asks for every file it names; 'bulk' leaves out those of scalar tables, for a
    caller that reads and verifies them anyway.
    """
    paths = RunPaths(run_id)
    data = store.get(paths.record(stage, key))
    if data is None:
        return None
    record = parse_record(data)
    if record is None or (record.run_id, record.fingerprint) != (run_id, fingerprint):
        return None
    if (record.stage, record.shard) != (stage, key):
        return None
    named = [(paths.absolute(file.key), file) for file in record.files(bulk_only=check == "bulk")]
    named += [(file.key, file) for file in record.outside_files()]
    for place, file in named:
        info = store.head(place)
        if info is None or info.bytes != file.bytes:
            return None
    return record


def parse_record(data: bytes) -> ShardRecord | None:
    """A record from its bytes; None if they are damaged in any way."""
    try:
        return ShardRecord.from_json(unseal(data, SHARD_FORMAT))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
