"""Parquet: encoded images (Hugging Face convention), raw tensors, and what ``ingest`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gradattr.data.cache import shared
from gradattr.data.decode import BadImage, image_size
from gradattr.data.files import Files, reading
from gradattr.data.parquet_columns import (
    ImageColumn,
    class_names,
    image_column,
    native_metadata,
    read_images,
    read_labels,
    require_column,
)
from gradattr.data.parquet_faults import (
    DamagedError,
    check_parts,
    check_same_images,
    check_unique,
    damage,
    group_errors,
    open_parquet,
    read_column,
)
from gradattr.data.parquet_masks import mask_column, read_masks
from gradattr.data.raw import RawRows, check_labels, count_classes, no_labels, row_ids
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError, ShardError
from gradattr.manifest.data import ParquetData

#: Default id column; native files have it.
ID_COLUMN = "sample_id"
#: A row group up to this size is kept decoded between shards; a larger one is streamed.
_KEEP_GROUP = 128 << 20
#: Rows looked at, to find one readable image.
_PROBE_ROWS = 1000


@dataclass
class _Found:
    """What index() gathers from file to file."""

    rows: int = 0
    refs: list[FileRef] = field(default_factory=list)
    labels: list[NDArray[np.int64]] = field(default_factory=list)
    ids: list[pa.ChunkedArray] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    names: tuple[str, ...] | None = None
    schema: pa.Schema | None = None
    shape: list[int] | None = None
    raw: bool = False


class ParquetReader:
    """Rows in the order of files, then of rows; read by row group."""

    def __init__(self, spec: ParquetData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        urls = self.files.expand(self.spec.files, (".parquet", ".pq"))
        found = _Found()
        whole = True
        for url in urls:
            if self.spec.limit is not None and found.rows >= self.spec.limit:
                whole = False
                break
            self._look(url, found)
        if whole and urls != self.spec.files:
            check_parts(found.parts, self.spec.files[0])
        ids = self._check_ids(found)
        if found.rows and found.shape is None:
            raise DataError(
                f"{urls[0]}: none of the first images in column {self.spec.image!r} can be read"
            )
        for ref in found.refs:
            ref.extra["image"] = found.shape
        labels = np.concatenate(found.labels) if found.labels else None
        shape = found.shape
        return DataIndex(
            "parquet",
            found.rows,
            tuple(found.refs),
            count_classes(labels, found.names),
            found.names,
            shape[0] if shape else None,
            (shape[1], shape[2]) if shape and found.raw else None,
            RowKeys(
                no_labels(found.rows) if labels is None else labels,
                None if ids is None else ids.to_pylist,
            ),
        )

    def _look(self, url: str, found: _Found) -> None:
        """Add one file to what was found."""
        size, digest = self.files.digest(url, self.spec.digest)
        with self._open(url) as file:
            schema = file.schema_arrow
            column = self._image_column(schema, url)
            check_same_images(found.schema, schema, column, url)
            self._mask_column(schema, column, url)
            found.schema = found.schema or schema
            found.raw = column.kind == "raw"
            found.parts.append(native_metadata(schema))
            found.names = found.names or self._names(schema)
            if self.spec.label is not None:
                found.labels.append(self._file_labels(file, found.names, url))
            if (id_column := self._id_column(schema, url)) is not None:
                found.ids.append(self._file_ids(file, id_column, url))
            if found.shape is None:
                found.shape = self._image_shape(file, column)
            rows = file.metadata.num_rows
        if rows:
            found.refs.append(FileRef(url, size, digest, found.rows, rows))
        found.rows += rows

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        stop = shard.start + shard.rows
        for ref in shard.files:
            self.files.check_unchanged(ref.url, ref.bytes)
            begin = max(shard.start, ref.first_row) - ref.first_row
            end = min(stop, ref.first_row + ref.rows) - ref.first_row
            with self._open(ref.url) as file:
                yield from self._read_file(file, ref, begin, end, batch_size)

    def _read_file(
        self, file: pq.ParquetFile, ref: FileRef, begin: int, end: int, batch_size: int
    ) -> Iterator[RawRows]:
        """Rows [begin, end) of one file."""
        schema = file.schema_arrow
        column = self._image_column(schema, ref.url)
        names = self._names(schema)
        id_column = self._id_column(schema, ref.url)
        columns = [column.name, *filter(None, [self.spec.label, id_column, self.spec.mask])]
        row = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = max(begin - row, 0), min(end - row, rows)
            if low < high:
                for start, table in self._group(file, ref, group, columns, low, high, batch_size):
                    first = ref.first_row + row + start
                    yield self._rows(table, first, column, names, id_column, ref.url)
            row += rows

    def _rows(
        self,
        table: pa.Table,
        first: int,
        column: ImageColumn,
        names: tuple[str, ...] | None,
        id_column: str | None,
        url: str,
    ) -> RawRows:
        count = table.num_rows
        images, faults = read_images(_one_array(table[column.name]), column)
        labels = no_labels(count)
        if self.spec.label is not None:
            labels = read_labels(table[self.spec.label], names, url)
        ids = row_ids(first, count)
        if id_column is not None:
            ids = pc.cast(table[id_column], pa.string()).to_pylist()
        rows = RawRows(first, ids, labels, images, faults)
        mask = self._mask_column(table.schema, column, url)
        if mask is not None:
            bits = _one_array(table[mask.name])
            rows.masks, bad = read_masks(bits, mask, self.spec.max_pixels)
            rows.faults = {**bad, **faults}
        return rows

    def _group(
        self,
        file: pq.ParquetFile,
        ref: FileRef,
        group: int,
        columns: list[str],
        low: int,
        high: int,
        batch_size: int,
    ) -> Iterator[tuple[int, pa.Table]]:
        """(first row in the group, rows as a table) for rows [low, high) of a row group."""
        where = f"{ref.url}: row group {group}"
        if file.metadata.row_group(group).total_byte_size <= _KEEP_GROUP:

            def load() -> pa.Table:
                with group_errors(where):
                    return file.read_row_group(group, columns=columns, use_threads=False)

            key = (ref.url, ref.digest, group, *columns)
            table = shared.get(key, load, lambda table: table.nbytes)
            for start in range(low, high, batch_size):
                yield start, table.slice(start, min(batch_size, high - start))
            return
        at = 0
        with group_errors(where):
            pieces = file.iter_batches(batch_size, [group], columns, use_threads=False)
        while at < high:
            with group_errors(where):
                piece = next(pieces, None)
            if piece is None:
                raise ShardError(f"{where}: {at} rows, its metadata says more; it is damaged")
            begin, end = max(low - at, 0), min(high - at, piece.num_rows)
            if begin < end:
                yield at + begin, pa.Table.from_batches([piece.slice(begin, end - begin)])
            at += piece.num_rows

    @contextmanager
    def _open(self, url: str) -> Iterator[pq.ParquetFile]:
        """The file with its footer read. DataError if the footer is damaged."""
        with self.files.open(url, ranges=True) as handle:
            try:
                with reading(url):
                    file = open_parquet(handle)
            except DamagedError as error:
                raise DataError(
                    f"{url}: the Parquet footer is truncated or damaged ({error}); "
                    "get the file again"
                ) from None
            with file:
                yield file

    def _image_column(self, schema: pa.Schema, url: str) -> ImageColumn:
        return image_column(schema, self.spec.image, self.spec.shape, url)

    def _mask_column(self, schema: pa.Schema, image: ImageColumn, url: str) -> ImageColumn | None:
        if self.spec.mask is None:
            return None
        return mask_column(schema, self.spec.mask, image, url)

    def _names(self, schema: pa.Schema) -> tuple[str, ...] | None:
        if self.spec.classes is not None:
            return tuple(self.spec.classes)
        return None if self.spec.label is None else class_names(schema, self.spec.label)

    def _id_column(self, schema: pa.Schema, url: str) -> str | None:
        if self.spec.id is not None:
            return str(require_column(schema, self.spec.id, "id", url).name)
        return ID_COLUMN if ID_COLUMN in schema.names else None

    def _file_labels(
        self, file: pq.ParquetFile, names: tuple[str, ...] | None, url: str
    ) -> NDArray[np.int64]:
        assert self.spec.label is not None
        require_column(file.schema_arrow, self.spec.label, "label", url)
        labels = read_labels(read_column(file, self.spec.label, url), names, url)
        check_labels(labels, len(names) if names else None, f"{url}: column {self.spec.label!r}")
        return labels

    def _file_ids(self, file: pq.ParquetFile, name: str, url: str) -> pa.ChunkedArray:
        ids = read_column(file, name, url)
        if ids.null_count:
            raise DataError(f"{url}: column {name!r} has {ids.null_count} null sample ids")
        try:
            return pc.cast(ids, pa.large_string())
        except pa.ArrowException:
            raise DataError(
                f"{url}: column {name!r} is {ids.type}; sample ids are strings or integers"
            ) from None

    def _check_ids(self, found: _Found) -> pa.ChunkedArray | None:
        """The ids of all rows, each once; None where there is no column of them."""
        if not found.ids:
            return None
        chunks = [chunk for part in found.ids for chunk in part.chunks]
        merged = pa.chunked_array(chunks, pa.large_string())
        if len(merged) != found.rows:
            raise DataError(f"{self.spec.files[0]}: only some of the files have sample ids")
        check_unique(merged, self.spec.files[0])
        return merged

    def _image_shape(self, file: pq.ParquetFile, column: ImageColumn) -> list[int] | None:
        """Of a raw column its shape; else 3 channels and the size of the first readable image."""
        if column.shape is not None:
            return list(column.shape)
        seen = 0
        for group in range(file.num_row_groups):
            for data in _encoded(file, group, column):
                seen += 1
                try:
                    return [3, *image_size(data or b"")]
                except BadImage:
                    if seen >= _PROBE_ROWS:
                        return None
        return None


def _encoded(file: pq.ParquetFile, group: int, column: ImageColumn) -> Iterator[bytes | None]:
    """Encoded images of a row group as far as they can be read; damage is told by its shard."""
    try:
        with damage():
            for piece in file.iter_batches(64, [group], [column.name], use_threads=False):
                yield from read_images(piece.column(0), column)[0]
    except DamagedError:
        return


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
