"""Many small files of a scalar table into one (or a few), the same bytes whoever does it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import pyarrow as pa

from gradattr.canonical import digest_bytes
from gradattr.errors import IntegrityError, ShardError
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.parquet import TableWriter, read_parquet
from gradattr.storage.shards import FileEntry

#: Files read ahead: bounds memory.
_AHEAD = 32


def compact(
    store: ObjectStore,
    run_id: str,
    fingerprint: str,
    table: str,
    files: tuple[FileEntry, ...],
) -> tuple[FileEntry, ...]:
    """Write a table's rows, in the order of ``files``, into as few files as 48 MB each allow.

    Every byte is verified on the way. Names are made of the content's digest, so that a second
    driver writes the same objects. ShardError: a file is missing. IntegrityError: one is altered.
    """
    if not files:
        return ()
    paths = RunPaths(run_id)
    done: list[FileEntry] = []

    def put(complete: list[tuple[bytes, int]]) -> None:
        for data, rows in complete:
            sha256 = digest_bytes(data)
            key = paths.compacted_file(table, len(done), sha256)
            if not store.put_new(paths.absolute(key), data):
                raise IntegrityError(f"{store.url(paths.absolute(key))}: holds other bytes")
            done.append(FileEntry(key, len(data), sha256, rows))

    writer: TableWriter | None = None
    for part in _read_all(store, paths, files):
        if writer is None:
            writer = TableWriter(part.schema, {"gradattr.shard": "all"}, 0)
        put(writer.append(pa.Table.from_arrays(part.columns, schema=writer.schema)))
    if writer is not None:
        put(writer.finish())
    return tuple(done)


def _read_all(
    store: ObjectStore, paths: RunPaths, files: tuple[FileEntry, ...]
) -> Iterator[pa.Table]:
    todo = iter(files)
    with ThreadPoolExecutor(16) as pool:
        queue: list[Future[pa.Table]] = []
        for file in islice(todo, _AHEAD):
            queue.append(pool.submit(read_verified, store, paths, file))
        try:
            while queue:
                table = queue.pop(0).result()
                for file in islice(todo, 1):
                    queue.append(pool.submit(read_verified, store, paths, file))
                yield table
        finally:
            for waiting in queue:
                waiting.cancel()


def read_verified(
    store: ObjectStore, paths: RunPaths, file: FileEntry, columns: list[str] | None = None
) -> pa.Table:
    """A committed or recorded file whose size, digest and pages are as they were written."""
    key = paths.absolute(file.key)
    data = store.get(key)
    if data is None:
        raise ShardError(
            f"{store.url(key)}: is missing; run the same command again to compute its shard anew"
        )
    if len(data) != file.bytes or digest_bytes(data) != file.sha256:
        raise IntegrityError(
            f"{store.url(key)}: is not the file that was written ({len(data)} bytes, expected "
            f"{file.bytes}; or altered bytes); delete it and run the same command again"
        )
    return read_parquet(data, store.url(key), columns)
