"""Parquet files as every run writes them: zstd 1, page checksums, plain strings, small groups."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from gradattr.errors import IntegrityError

#: A file is closed when it has grown to this; no object then needs a multipart upload.
FILE_BYTES = 48 << 20
#: What a row group of maps holds, before compression: some 28 maps of 224 x 224 in float16.
_GROUP_BYTES = 8 << 20
_SCALAR_GROUP_ROWS = 122_880
_MAP_GROUP_ROWS = 4096
_MAP_COLUMNS = ("map", "map_index", "map_value", "bins")
#: Columns of few distinct values, worth a Parquet (not Arrow) dictionary.
_REPEATED = ("method", "status", "target", "stage", "error", "scheme", "split")


class TableWriter:
    """Turns appended tables of one schema into the bytes of one or more Parquet files.

    The bytes depend on the rows alone, not on how they were cut into calls of ``append``.
    """

    def __init__(self, schema: pa.Schema, metadata: Mapping[str, str], bytes_per_row: int) -> None:
        kept = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        self.schema = schema.with_metadata(kept | dict(metadata))
        self._group = group_rows(schema, bytes_per_row)
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._open()

    def append(self, table: pa.Table) -> list[tuple[bytes, int]]:
        """Add rows. Returns files that became complete: (bytes, rows)."""
        done = []
        self._pending.append(table)
        self._pending_rows += table.num_rows
        while self._pending_rows >= self._group:
            self._write_group(self._group)
            if self._sink.tell() >= FILE_BYTES:
                done.append(self._close())
                self._open()
        return done

    def finish(self) -> list[tuple[bytes, int]]:
        """The last file, if it has any rows."""
        if self._pending_rows:
            self._write_group(self._pending_rows)
        return [self._close()] if self._rows else []

    def _open(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._rows = 0
        self._writer = pq.ParquetWriter(
            self._sink,
            self.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in _REPEATED if name in self.schema.names],
            write_page_checksum=True,
            write_statistics=[name for name in self.schema.names if name not in _MAP_COLUMNS],
        )

    def _close(self) -> tuple[bytes, int]:
        self._writer.close()
        return self._sink.getvalue().to_pybytes(), self._rows

    def _write_group(self, rows: int) -> None:
        whole = pa.concat_tables(self._pending)
        group = whole.slice(0, rows).replace_schema_metadata(self.schema.metadata)
        self._writer.write_table(group, row_group_size=rows)
        rest = whole.slice(rows)
        self._pending, self._pending_rows = [rest], rest.num_rows
        self._rows += rows


def group_rows(schema: pa.Schema, bytes_per_row: int) -> int:
    """Rows of a row group."""
    if not any(name in _MAP_COLUMNS for name in schema.names):
        return _SCALAR_GROUP_ROWS
    return max(1, min(_MAP_GROUP_ROWS, _GROUP_BYTES // max(1, bytes_per_row)))


def row_bytes(table: pa.Table) -> int:
    """Bytes of one row before compression, from the first row that has a map, else the first."""
    found = next(
        (name for name in ("map", "map_index", "bins") if name in table.schema.names), None
    )
    if found is None:
        return 0
    column = table[found]
    kind = (
        column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
    )
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size * kind.value_type.bit_width // 8)
    first = column.drop_null().slice(0, 1)
    if not len(first):
        return 0
    value = first[0].as_py()
    return len(value) if isinstance(value, bytes) else 6 * len(value)


def read_parquet(data: bytes, name: str, columns: list[str] | None = None) -> pa.Table:
    """A whole file, every page's checksum verified. IntegrityError names the file."""
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            return file.read(columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{name}: the Parquet file is damaged ({error})") from None


def check_parquet(data: bytes, name: str) -> int:
    """Rows of a file after every page was read and its checksum compared; bounded memory."""
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group, use_threads=False)
            return int(file.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{name}: the Parquet file is damaged ({error})") from None
