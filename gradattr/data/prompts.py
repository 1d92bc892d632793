"""Prompts from a file: lines of text, JSON lines, CSV or Parquet. A bad row is a row with a reason.

A file is read whole: text is small beside what is computed of it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradattr.canonical import digest_bytes
from gradattr.data.files import Files, changed
from gradattr.data.raw import row_ids
from gradattr.errors import DataError
from gradattr.manifest.patching import PromptData
from gradattr.storage.filesystem import S3Options

#: What a row can have besides its prompt.
_OPTIONAL = ("answer", "foil", "corrupted")


@dataclass(frozen=True)
class Prompt:
    """A row of a file of prompts."""

    row: int
    sample_id: str
    prompt: str = ""
    answer: str | None = None
    """None: the row has none."""
    foil: str | None = None
    corrupted: str | None = None
    error: str | None = None
    """Why the row cannot be read; then there is nothing else."""


@dataclass(frozen=True)
class PromptIndex:
    """A file of prompts, looked at."""

    rows: int
    bytes: int
    digest: str
    """sha256 of the file."""


def index_prompts(spec: PromptData, options: S3Options | None = None) -> PromptIndex:
    """Look at the file. DataError: it is missing, empty, not of its format, lacks a column, or two
    rows have one sample id."""
    data = Files(options).read(spec.file)
    prompts = _parsed(spec, data)
    if not prompts:
        raise DataError(f"{spec.file}: there are no prompts in it")
    seen: dict[str, int] = {}
    for one in prompts:
        first = seen.setdefault(one.sample_id, one.row)
        if first != one.row:
            raise DataError(
                f"{spec.file}: rows {first} and {one.row} have the sample id {one.sample_id!r}; "
                "ids are unique (leave out data.id to use row numbers)"
            )
    return PromptIndex(len(prompts), len(data), digest_bytes(data))


def read_prompts(
    spec: PromptData, start: int, rows: int, digest: str, options: S3Options | None = None
) -> list[Prompt]:
    """Rows ``start`` to ``start + rows`` - 1. DataError if the file is not the planned one."""
    data = Files(options).read(spec.file)
    if digest_bytes(data) != digest:
        raise DataError(changed(spec.file, "its sha256 is another"))
    return _parsed(spec, data)[start : start + rows]


def _parsed(spec: PromptData, data: bytes) -> list[Prompt]:
    read = {"text": _text, "jsonl": _jsonl, "csv": _csv, "parquet": _parquet}[spec.kind]
    found = []
    for row, values in enumerate(read(spec, data)):
        if row == spec.limit:
            break
        found.append(_prompt(spec, row, values))
    return found


def _prompt(spec: PromptData, row: int, values: dict[str, Any] | str) -> Prompt:
    """A row from its values by column; from a text: why there are none."""
    (sample_id,) = row_ids(row, 1)
    if isinstance(values, str):
        return Prompt(row, sample_id, error=values)
    if spec.id is not None:
        value = values.get(spec.id)
        # Numbers are ids as well as texts are.
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            return Prompt(row, sample_id, error=f"column {spec.id!r} has no id here: {value!r}")
        sample_id = str(value)
    texts: dict[str, str | None] = {}
    for what, column in spec.columns.items():
        value = values.get(column)
        if what == "id":
            continue
        if value is None and what in _OPTIONAL:
            texts[what] = None
        elif not isinstance(value, str):
            kind = "nothing" if value is None else f"a {type(value).__name__}"
            return Prompt(row, sample_id, error=f"column {column!r}: {kind} stands there, not text")
        else:
            texts[what] = value
    return Prompt(
        row,
        sample_id,
        texts["prompt"] or "",
        texts.get("answer"),
        texts.get("foil"),
        texts.get("corrupted"),
    )


def _text(spec: PromptData, data: bytes) -> Iterator[dict[str, Any] | str]:
    for line in _lines(data):
        try:
            yield {spec.prompt: line.decode()}
        except UnicodeDecodeError as error:
            yield f"not UTF-8: {error.reason} at byte {error.start}"


def _jsonl(spec: PromptData, data: bytes) -> Iterator[dict[str, Any] | str]:
    for number, line in enumerate(line for line in _lines(data) if line.strip()):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
            continue
        if not isinstance(value, dict):
            yield f"a {type(value).__name__}, expected a JSON object"
            continue
        if number == 0:
            _check_columns(spec, value)
        yield value


def _csv(spec: PromptData, data: bytes) -> Iterator[dict[str, Any] | str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{spec.file}: not UTF-8: {error.reason} at byte {error.start}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(spec, reader.fieldnames or [])
        for values in reader:
            # An empty field is no answer; of a prompt it is an empty one.
            empty = {spec.columns.get(name) for name in _OPTIONAL}
            yield {k: None if v == "" and k in empty else v for k, v in values.items() if k}
    except csv.Error as error:
        raise DataError(f"{spec.file}: line {reader.reader.line_num}: not CSV: {error}") from None


def _parquet(spec: PromptData, data: bytes) -> Iterator[dict[str, Any] | str]:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(spec, file.schema_arrow.names)
        for batch in file.iter_batches(columns=sorted(set(spec.columns.values()))):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{spec.file}: not Parquet, or damaged: {error}") from None


def _lines(data: bytes) -> list[bytes]:
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def _check_columns(spec: PromptData, names: Iterable[str]) -> None:
    there = list(names)
    for what, column in spec.columns.items():
        if column not in there:
            raise DataError(
                f"{spec.file}: there is no column {column!r} (data.{what}); there are "
                f"{', '.join(map(repr, there)) or 'none'}"
            )
