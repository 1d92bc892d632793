"""What the tasks of an earlier stage of the same run left, before the run is committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from gradattr.errors import IntegrityError, ShardError
from gradattr.storage.compaction import read_verified
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import FileEntry, ShardRecord, read_record

#: Bytes of one piece of a tensor: small enough for a file.
PIECE_BYTES = 8 * 2**20
#: Files that are read ahead: bounds memory.
_AHEAD = 4


def stage_records(
    store: ObjectStore, run_id: str, fingerprint: str, stage: str, keys: Iterable[str]
) -> list[ShardRecord]:
    """The records of these tasks. ShardError if one has none that counts."""
    paths = RunPaths(run_id)

    def one(key: str) -> ShardRecord:
        record = read_record(store, run_id, fingerprint, stage, key, check="bulk")
        if record is None:
            raise ShardError(
                f"{store.url(paths.record(stage, key))}: the record is missing or damaged; run the "
                "same command again to compute its shard anew"
            )
        return record

    with ThreadPoolExecutor(_AHEAD) as pool:
        return list(pool.map(one, keys))


def read_parts(
    store: ObjectStore,
    records: Iterable[ShardRecord],
    table: str,
    columns: list[str] | None = None,
) -> Iterator[pa.Table]:
    """A table's files in the order of the records, one at a time, every byte verified; all columns
    of them, or those that are named.

    ShardError: a file is missing. IntegrityError: one is altered.
    """
    entries = [(record.run_id, record.tables.get(table)) for record in records]
    files = [(run_id, file) for run_id, entry in entries if entry for file in entry.files]
    yield from read_files(store, files, columns)


def read_files(
    store: ObjectStore, files: Iterable[tuple[str, FileEntry]], columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """Files of runs, (run id, file), in order; a few are read ahead."""
    todo = iter(files)
    with ThreadPoolExecutor(_AHEAD) as pool:
        queue = [pool.submit(_read, store, columns, *next_) for next_ in islice(todo, _AHEAD)]
        try:
            while queue:
                table = queue.pop(0).result()
                queue += [pool.submit(_read, store, columns, *n) for n in islice(todo, 1)]
                yield table
        finally:
            for waiting in queue:
                waiting.cancel()


def _read(store: ObjectStore, columns: list[str] | None, run_id: str, file: FileEntry) -> pa.Table:
    return read_verified(store, RunPaths(run_id), file, columns)


def tensor_rows(tensors: Mapping[str, np.ndarray]) -> Iterator[pa.Table]:
    """Rows of the table ``tensors``, a piece of 8 MB at a time."""
    for name, values in tensors.items():
        data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        for part, first in enumerate(range(0, max(1, len(data)), PIECE_BYTES)):
            columns = {
                "tensor": [name],
                "part": [part],
                "type": [values.dtype.name],
                "shape": [list(values.shape)],
                "values": [data[first : first + PIECE_BYTES]],
            }
            yield make_table("tensors", columns, table_schema("tensors"))


def read_tensors(store: ObjectStore, records: Iterable[ShardRecord]) -> dict[str, np.ndarray]:
    """The tensors of these records. IntegrityError if a piece of one is missing."""
    pieces: dict[str, list[dict[str, Any]]] = {}
    for table in read_parts(store, records, "tensors"):
        for row in table.to_pylist():
            pieces.setdefault(row["tensor"], []).append(row)
    return {name: _whole(name, found) for name, found in pieces.items()}


def _whole(name: str, pieces: list[dict[str, Any]]) -> np.ndarray:
    ordered = sorted(pieces, key=lambda piece: int(piece["part"]))
    data = b"".join(piece["values"] for piece in ordered)
    shape = ordered[0]["shape"]
    kind = np.dtype(ordered[0]["type"]).newbyteorder("<")
    if len(data) != kind.itemsize * int(np.prod(shape)):
        raise IntegrityError(f"tensor {name}: {len(data)} bytes do not make {shape} of {kind}")
    return np.frombuffer(data, kind).reshape(shape)
