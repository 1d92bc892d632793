"""Parquet: encoded images (Hugging Face convention), raw tensors, and what ``ingest`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
from gradattr.data.raw import RawRows, check_labels, count_classes, no_labels, row_ids
from gradattr.data.types import DataIndex, FileRef, ShardRef
from gradattr.errors import DataError, ShardError
from gradattr.manifest.data import ParquetData

#: Default id column; native files have it.
ID_COLUMN = "sample_id"
#: A row group up to this size is kept decoded between shards; a larger one is streamed.
_KEEP_GROUP = 128 << 20
#: Rows looked at, to find one readable image.
_PROBE_ROWS = 1000


class ParquetReader:
    """Rows in the order of files, then of rows; read by row group."""

    def __init__(self, spec: ParquetData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        urls = self.files.expand(self.spec.files, (".parquet", ".pq"))
        refs: list[FileRef] = []
        labels: list[NDArray[np.int64]] = []
        ids: list[pa.ChunkedArray] = []
        names: tuple[str, ...] | None = None
        shape: list[int] | None = None
        first: pa.Schema | None = None
        parts: list[dict[str, Any]] = []
        row = 0
        for url in urls:
            if self.spec.limit is not None and row >= self.spec.limit:
                parts.clear()
                break
            size, digest = self.files.digest(url, self.spec.digest)
            with self._open(url) as file:
                schema = file.schema_arrow
                column = self._image_column(schema, url)
                _check_same_images(first, schema, column, url)
                first = first or schema
                parts.append(native_metadata(schema))
                names = names or self._names(schema)
                if self.spec.label is not None:
                    labels.append(self._file_labels(file, names, url))
                if (id_column := self._id_column(schema, url)) is not None:
                    ids.append(self._file_ids(file, id_column, url))
                if shape is None:
                    shape = self._image_shape(file, column)
                rows = file.metadata.num_rows
            if rows:
                refs.append(FileRef(url, size, digest, row, rows, {}))
            row += rows
        if urls != self.spec.files:
            _check_parts(parts, self.spec.files[0])
        self._check_ids(ids, row)
        if row and shape is None:
            raise DataError(
                f"{urls[0]}: none of the first images in column {self.spec.image!r} can be read"
            )
        refs = [
            FileRef(r.url, r.bytes, r.digest, r.first_row, r.rows, {"image": shape}) for r in refs
        ]
        raw = bool(refs) and column.kind == "raw"
        merged = np.concatenate(labels) if labels else None
        return DataIndex(
            "parquet",
            row,
            tuple(refs),
            count_classes(merged, names),
            names,
            shape[0] if shape else None,
            (shape[1], shape[2]) if shape and raw else None,
        )

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
        columns = [column.name, *filter(None, [self.spec.label, id_column])]
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
        return RawRows(first, ids, labels, images, faults)

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
                with _group_errors(where):
                    return file.read_row_group(group, columns=columns, use_threads=False)

            key = (ref.url, ref.digest, group, *columns)
            table = shared.get(key, load, lambda table: table.nbytes)
            for start in range(low, high, batch_size):
                yield start, table.slice(start, min(batch_size, high - start))
            return
        at = 0
        with _group_errors(where):
            pieces = file.iter_batches(batch_size, [group], columns, use_threads=False)
        while at < high:
            with _group_errors(where):
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
                    file = _parquet_file(handle)
            except _DamagedError as error:
                raise DataError(
                    f"{url}: the Parquet footer is truncated or damaged ({error}); "
                    "get the file again"
                ) from None
            with file:
                yield file

    def _image_column(self, schema: pa.Schema, url: str) -> ImageColumn:
        return image_column(schema, self.spec.image, self.spec.shape, url)

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
        labels = read_labels(_read_column(file, self.spec.label, url), names, url)
        check_labels(labels, len(names) if names else None, f"{url}: column {self.spec.label!r}")
        return labels

    def _file_ids(self, file: pq.ParquetFile, name: str, url: str) -> pa.ChunkedArray:
        ids = _read_column(file, name, url)
        if ids.null_count:
            raise DataError(f"{url}: column {name!r} has {ids.null_count} null sample ids")
        try:
            return pc.cast(ids, pa.large_string())
        except pa.ArrowException:
            raise DataError(
                f"{url}: column {name!r} is {ids.type}; sample ids are strings or integers"
            ) from None

    def _check_ids(self, ids: list[pa.ChunkedArray], rows: int) -> None:
        if not ids:
            return
        merged = pa.chunked_array(
            [chunk for part in ids for chunk in part.chunks], pa.large_string()
        )
        if len(merged) != rows:
            raise DataError(f"{self.spec.files[0]}: only some of the files have sample ids")
        check_unique(merged, self.spec.files[0])

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


def _check_parts(parts: list[dict[str, Any]], where: str) -> None:
    """DataError if a folder holds only some of the files of one ``ingest``, or of several."""
    tokens = {part.get("token") for part in parts}
    if tokens in (set(), {None}):
        return
    total = next(part["parts"] for part in parts if "parts" in part)
    if len(tokens) > 1:
        raise DataError(f"{where}: holds files of more than one data set; separate them")
    if len(parts) != total:
        raise DataError(
            f"{where}: {len(parts)} of {total} files of this ingested data set are there; run the "
            "same 'gradattr ingest' again to complete it"
        )


def check_unique(ids: pa.ChunkedArray, where: str) -> None:
    """DataError naming the first sample id that stands in more than one row."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids.combine_chunks())
    several = counts.filter(pc.greater(counts.field("counts"), 1))
    value, count = several[0].as_py()["values"], several[0].as_py()["counts"]
    raise DataError(
        f"{where}: sample ids are not unique: {value[:200]!r} stands in {count} rows, "
        f"{len(several)} ids stand in more than one. Name a column of unique ids in 'id'"
    )


def _check_same_images(
    first: pa.Schema | None, schema: pa.Schema, column: ImageColumn, url: str
) -> None:
    if first is not None and first.field(column.name).type != schema.field(column.name).type:
        raise DataError(
            f"{url}: column {column.name!r} is {schema.field(column.name).type}, in the files "
            f"before it {first.field(column.name).type}; one data set has one type of image"
        )


def _read_column(file: pq.ParquetFile, name: str, url: str) -> pa.ChunkedArray:
    try:
        with reading(url), _damage():
            return file.read(columns=[name], use_threads=False).column(name)
    except _DamagedError as error:
        raise DataError(f"{url}: column {name!r} cannot be read ({error})") from None


def _encoded(file: pq.ParquetFile, group: int, column: ImageColumn) -> Iterator[bytes | None]:
    """Encoded images of a row group as far as they can be read; damage is told by its shard."""
    try:
        with _damage():
            for piece in file.iter_batches(64, [group], [column.name], use_threads=False):
                yield from read_images(piece.column(0), column)[0]
    except _DamagedError:
        return


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class _DamagedError(Exception):
    """What the Parquet reader says about damaged bytes, in one line."""


@contextmanager
def _damage() -> Iterator[None]:
    """Damaged bytes as _DamagedError. Trouble of the file system has an errno, and passes."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise _DamagedError(line) from None


def _parquet_file(handle: Any) -> pq.ParquetFile:
    with _damage():
        return pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=True)


@contextmanager
def _group_errors(where: str) -> Iterator[None]:
    try:
        with reading(where), _damage():
            yield
    except _DamagedError as error:
        raise ShardError(
            f"{where} cannot be read ({error}); its rows are lost until the file is replaced, "
            "other shards are not affected"
        ) from None
