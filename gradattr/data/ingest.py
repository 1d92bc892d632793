"""Any data set to native Parquet: ``sample_id``, ``image``, ``label``, in files of equal rows.

Encoded images stay the bytes that they were, as ``struct<bytes, path>``; raw arrays become
fixed-shape tensors (channels, height, width) of uint8 or float32. A file's name is a function of
the source's digest and of its place, so running the same command again writes what is missing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gradattr.canonical import digest_json
from gradattr.data.batches import prepare
from gradattr.data.files import Files
from gradattr.data.parquet import ID_COLUMN
from gradattr.data.parquet_columns import NATIVE
from gradattr.data.preprocess import output_shape
from gradattr.data.raw import RawRows
from gradattr.data.registry import index_data, make_shards, read_raw, source_shape
from gradattr.data.types import DataIndex, ShardRef
from gradattr.errors import ConflictError, UsageError
from gradattr.manifest.data import AnyData, ParquetData, Preprocess
from gradattr.storage.filesystem import S3Options

#: Changes when the same source would be written differently.
VERSION = 1
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 1024
_READ_ROWS = 256


@dataclass(frozen=True)
class Part:
    """One file to be written: all that a worker needs for it."""

    url: str
    shard: ShardRef
    number: int
    parts: int
    token: str
    classes: tuple[str, ...] | None


def ingest(
    spec: AnyData,
    to: str,
    *,
    shard_rows: int,
    options: S3Options | None = None,
    preprocess: Preprocess | None = None,
    on_part: Callable[[int, int], None] | None = None,
) -> DataIndex:
    """Write a data set as Parquet below ``to``; return the index of what is there.

    Every row keeps its place: one without a usable image has a null there. With ``preprocess``
    (without mean and std, which belong to a model) images are decoded, resized and cropped once,
    and stored raw. ``on_part`` is told (files done, files in all).

    DataError for the source's faults, ConflictError if ``to`` holds other data, UsageError for
    mean and std, StoreError if it cannot be written.
    """
    if preprocess is not None and preprocess.mean is not None:
        raise UsageError("ingest: preprocess.mean and std belong to the model; leave them out")
    files = Files(options)
    parts = plan_parts(index_data(spec, options=options), to, shard_rows, preprocess)
    present = {name for name in files.names(to) if name.endswith((".parquet", ".pq"))}
    wanted = {part.url.rsplit("/", 1)[-1] for part in parts}
    if foreign := sorted(present - wanted):
        raise ConflictError(
            f"{to}: holds {len(foreign)} Parquet files that are not of this data set "
            f"({foreign[0]}, ...); give another folder, or remove them"
        )
    for done, part in enumerate(parts, 1):
        if part.url.rsplit("/", 1)[-1] not in present:
            files.write(part.url, part_bytes(spec, part, preprocess, options))
        if on_part is not None:
            on_part(done, len(parts))
    return index_data(ParquetData(format="parquet", files=[to]), options=options)


def plan_parts(
    index: DataIndex, to: str, shard_rows: int, preprocess: Preprocess | None
) -> list[Part]:
    """The files of an ingest, in order. Any worker can write any of them."""
    shards = make_shards(index, shard_rows)
    steps = None if preprocess is None else preprocess.model_dump(mode="json")
    token = digest_json([VERSION, index.digest(), shard_rows, steps])[:8]
    total = len(shards)
    return [
        Part(
            f"{to.rstrip('/')}/part-{shard.index:05d}-of-{total:05d}-{token}.parquet",
            shard,
            shard.index,
            total,
            token,
            index.class_names,
        )
        for shard in shards
    ]


def part_bytes(
    spec: AnyData, part: Part, preprocess: Preprocess | None, options: S3Options | None = None
) -> bytes:
    """The Parquet file of one part."""
    tables = [
        _table(raw, spec, part, preprocess)
        for raw in read_raw(spec, part.shard, batch_size=_READ_ROWS, options=options)
    ]
    table = pa.concat_tables(tables)
    encoded = pa.types.is_struct(table.schema.field("image").type)
    table = table.replace_schema_metadata(_metadata(part, encoded))
    per_row = max(1, table.nbytes // max(1, table.num_rows))
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=max(1, min(_GROUP_ROWS, _GROUP_BYTES // per_row)),
        compression="zstd",
        compression_level=1,
        use_dictionary=not encoded,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _table(raw: RawRows, spec: AnyData, part: Part, preprocess: Preprocess | None) -> pa.Table:
    if preprocess is not None:
        raw = _prepared(raw, spec, part, preprocess)
    usable = np.array([at not in raw.faults for at in range(len(raw))])
    if isinstance(raw.images, list):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        paths = raw.sample_ids if spec.format == "folder" else [None] * len(raw)
        rows = zip(raw.images, paths, usable, strict=True)
        images = pa.array([{"bytes": b, "path": p} if ok else None for b, p, ok in rows], kind)
    else:
        images = _tensors(np.ascontiguousarray(raw.images), usable)
    labels = pa.array(raw.labels.astype(np.int32), mask=raw.labels < 0)
    return pa.table({ID_COLUMN: pa.array(raw.sample_ids), "image": images, "label": labels})


def _prepared(raw: RawRows, spec: AnyData, part: Part, preprocess: Preprocess) -> RawRows:
    shape = output_shape(preprocess, source_shape(part.shard.files[0]))
    tensors, kept, faults = prepare(raw, preprocess, shape, spec.max_pixels)
    # An empty batch has no type of its own; encoded images are uint8 once decoded.
    images = np.zeros((len(raw), *shape), tensors.numpy().dtype)
    images[kept] = tensors.numpy()
    return RawRows(raw.first, raw.sample_ids, raw.labels, images, faults)


def _tensors(images: np.ndarray[Any, Any], usable: np.ndarray[Any, Any]) -> pa.Array:
    size = int(np.prod(images.shape[1:]))
    values = pa.array(images.reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(~usable))
    kind = pa.fixed_shape_tensor(values.type, images.shape[1:], dim_names=["C", "H", "W"])
    return pa.ExtensionArray.from_storage(kind, storage)


def _metadata(part: Part, encoded: bool) -> dict[bytes, str]:
    own = {
        "format": "gradattr/data",
        "version": VERSION,
        "token": part.token,
        "part": part.number,
        "parts": part.parts,
        "classes": part.classes,
    }
    metadata = {NATIVE: json.dumps(own)}
    if encoded:
        label: dict[str, Any] = {"dtype": "int32", "_type": "Value"}
        if part.classes:
            label = {"names": list(part.classes), "_type": "ClassLabel"}
        features = {
            ID_COLUMN: {"dtype": "string", "_type": "Value"},
            "image": {"_type": "Image"},
            "label": label,
        }
        metadata[b"huggingface"] = json.dumps({"info": {"features": features}})
    return metadata
