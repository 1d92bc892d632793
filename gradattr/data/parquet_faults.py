"""What can be wrong with Parquet files, and how each fault is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradattr.data.files import reading
from gradattr.data.parquet_columns import ImageColumn
from gradattr.errors import DataError, ShardError


def check_parts(parts: list[dict[str, Any]], where: str) -> None:
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


def check_same_images(
    first: pa.Schema | None, schema: pa.Schema, column: ImageColumn, url: str
) -> None:
    if first is not None and first.field(column.name).type != schema.field(column.name).type:
        raise DataError(
            f"{url}: column {column.name!r} is {schema.field(column.name).type}, in the files "
            f"before it {first.field(column.name).type}; one data set has one type of image"
        )


def read_column(file: pq.ParquetFile, name: str, url: str) -> pa.ChunkedArray:
    try:
        with reading(url), damage():
            return file.read(columns=[name], use_threads=False).column(name)
    except DamagedError as error:
        raise DataError(f"{url}: column {name!r} cannot be read ({error})") from None


class DamagedError(Exception):
    """What the Parquet reader says about damaged bytes, in one line."""


@contextmanager
def damage() -> Iterator[None]:
    """Damaged bytes as DamagedError. Trouble of the file system has an errno, and passes."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DamagedError(line) from None


def open_parquet(handle: Any) -> pq.ParquetFile:
    with damage():
        return pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=True)


@contextmanager
def group_errors(where: str) -> Iterator[None]:
    try:
        with reading(where), damage():
            yield
    except DamagedError as error:
        raise ShardError(
            f"{where} cannot be read ({error}); its rows are lost until the file is replaced, "
            "other shards are not affected"
        ) from None
