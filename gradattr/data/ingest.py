"""Any data set to native Parquet: ``sample_id``, ``image``, ``label``, in files of equal rows.

Encoded images stay the bytes that they were, as ``struct<bytes, path>``, but for those with a
patch, which become PNG; raw arrays become fixed-shape tensors (channels, height, width) of uint8 or
float32. Data with masks has a column ``mask`` besides: PNG beside encoded images, else tensors
(height, width) of uint8, not 0 in the marked region; null where nothing is marked. A file's name is
a function of the source's digest, of what is selected, and of its place, so running the same
command again writes what is missing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from gradattr.canonical import digest_json
from gradattr.data.batches import prepare, prepare_masks
from gradattr.data.files import Files
from gradattr.data.parquet import ID_COLUMN
from gradattr.data.parquet_columns import NATIVE
from gradattr.data.preprocess import output_shape
from gradattr.data.raw import Encoded, RawRows
from gradattr.data.registry import cut_shards, index_data, index_rows, read_raw, source_shape
from gradattr.data.selection import RowRange, Selection, select
from gradattr.data.types import DataIndex, ShardRef
from gradattr.errors import ConflictError, UsageError
from gradattr.manifest.data import AnyData, ParquetData, Preprocess
from gradattr.storage.filesystem import S3Options

#: Changes when the same source would be written differently.
VERSION = 1
#: Column of the masks.
MASK_COLUMN = "mask"
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 1024
_READ_ROWS = 256
_ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Part:
    """One file to be written: all that a worker needs for it."""

    url: str
    shard: ShardRef
    """Rows from the first to the last of the file; only those that are selected are written."""
    selection: Selection
    parts: int
    token: str


def ingest(
    spec: AnyData,
    to: str,
    *,
    shard_rows: int,
    only: Sequence[str | int] | None = None,
    rows: RowRange | None = None,
    options: S3Options | None = None,
    preprocess: Preprocess | None = None,
    on_part: Callable[[int, int], None] | None = None,
) -> DataIndex:
    """Write a data set as Parquet below ``to``; return the index of what is there.

    Every row keeps its place: one without a usable image has a null there. With ``rows`` (START,
    STOP) only these rows of the data set are written, with ``only`` those of some classes (names,
    or numbers); label 0 is then the first of these. Sample ids stay what they were. With
    ``preprocess`` (without mean and std, which belong to a model) images are decoded, resized and
    cropped once, and stored raw. ``on_part`` is told (files done, files in all).

    DataError for the source's faults, an unknown class, or an empty selection; ConflictError if
    ``to`` holds other data; UsageError for mean and std, or rows that are not there; StoreError if
    it cannot be written.
    """
    if preprocess is not None and preprocess.mean is not None:
        raise UsageError("ingest: preprocess.mean and std belong to the model; leave them out")
    files = Files(options)
    index = index_rows(spec, options=options)
    parts = plan_parts(spec, index, select(index, only, rows), to, shard_rows, preprocess)
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
    mask = MASK_COLUMN if spec.has_masks else None
    return index_data(ParquetData(format="parquet", files=[to], mask=mask), options=options)


def plan_parts(
    spec: AnyData,
    index: DataIndex,
    selection: Selection,
    to: str,
    shard_rows: int,
    preprocess: Preprocess | None,
) -> list[Part]:
    """The files of an ingest, in order. Any worker can write any of them."""
    rows = selection.rows(index)
    chunks = [rows[at : at + shard_rows] for at in range(0, len(rows), shard_rows)]
    shards = cut_shards(index, ((int(chunk[0]), int(chunk[-1]) + 1) for chunk in chunks))
    steps = None if preprocess is None else preprocess.model_dump(mode="json")
    recipe: list[Any] = [VERSION, index.digest(), shard_rows, steps]
    special = selection.to_json(index) | ({"masks": True} if spec.has_masks else {})
    token = digest_json([*recipe, special] if special else recipe)[:8]
    total = len(shards)
    return [
        Part(
            f"{to.rstrip('/')}/part-{shard.index:05d}-of-{total:05d}-{token}.parquet",
            shard,
            selection,
            total,
            token,
        )
        for shard in shards
    ]


def part_bytes(
    spec: AnyData, part: Part, preprocess: Preprocess | None, options: S3Options | None = None
) -> bytes:
    """The Parquet file of one part."""
    pieces = read_raw(spec, part.shard, batch_size=_READ_ROWS, options=options)
    selected = (part.selection.apply(raw) for raw in pieces)
    table = pa.concat_tables([_table(raw, spec, part, preprocess) for raw in selected if len(raw)])
    encoded = pa.types.is_struct(table.schema.field("image").type)
    table = table.replace_schema_metadata(_metadata(part, encoded, spec.has_masks))
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
    if isinstance(raw.images, np.ndarray):
        images = _tensors(raw.images, usable, ["C", "H", "W"])
    else:
        paths = raw.sample_ids if spec.format == "folder" else [None] * len(raw)
        rows = zip(raw.images, paths, usable, strict=True)
        stored = [{"bytes": _bytes_of(image), "path": p} if ok else None for image, p, ok in rows]
        images = pa.array(stored, _ENCODED)
    labels = pa.array(raw.labels.astype(np.int32), mask=raw.labels < 0)
    columns = {ID_COLUMN: pa.array(raw.sample_ids), "image": images, "label": labels}
    if raw.masks is not None:
        columns[MASK_COLUMN] = _masks(raw, usable)
    return pa.table(columns)


def _masks(raw: RawRows, usable: NDArray[np.bool_]) -> pa.Array:
    """The column of masks: encoded, or raw, as the images are."""
    if isinstance(raw.masks, np.ndarray) and isinstance(raw.images, np.ndarray):
        return _tensors(raw.masks.astype(np.uint8), usable, ["H", "W"])
    pngs = [
        None if mask is None or not ok else {"bytes": _png(mask), "path": None}
        for mask, ok in zip(raw.masks or (), usable, strict=True)
    ]
    return pa.array(pngs, _ENCODED)


def _bytes_of(image: Encoded) -> bytes | None:
    return _png(image.transpose(1, 2, 0)) if isinstance(image, np.ndarray) else image


def _png(pixels: NDArray[Any]) -> bytes:
    """(h, w) bool or (h, w, 3) uint8 without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _prepared(raw: RawRows, spec: AnyData, part: Part, preprocess: Preprocess) -> RawRows:
    shape = output_shape(preprocess, source_shape(part.shard.files[0]))
    tensors, kept, faults = prepare(raw, preprocess, shape, spec.max_pixels)
    # An empty batch has no type of its own; encoded images are uint8 once decoded.
    images = np.zeros((len(raw), *shape), tensors.numpy().dtype)
    images[kept] = tensors.numpy()
    masks = None
    if raw.masks is not None:
        masks = np.zeros((len(raw), *shape[1:]), np.bool_)
        found = [raw.masks[at] for at in kept]
        masks[kept] = prepare_masks(found, preprocess, shape).numpy()
    return RawRows(raw.first, raw.sample_ids, raw.labels, images, faults, masks)


def _tensors(images: NDArray[Any], usable: NDArray[np.bool_], names: list[str]) -> pa.Array:
    images = np.ascontiguousarray(images)
    size = int(np.prod(images.shape[1:]))
    values = pa.array(images.reshape(-1))
    storage = pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(~usable))
    kind = pa.fixed_shape_tensor(values.type, images.shape[1:], dim_names=names)
    return pa.ExtensionArray.from_storage(kind, storage)


def _metadata(part: Part, encoded: bool, masked: bool) -> dict[bytes, str]:
    own = {
        "format": "gradattr/data",
        "version": VERSION,
        "token": part.token,
        "part": part.shard.index,
        "parts": part.parts,
        "classes": part.selection.class_names,
    }
    metadata = {NATIVE: json.dumps(own)}
    if encoded:
        label: dict[str, Any] = {"dtype": "int32", "_type": "Value"}
        if part.selection.class_names:
            label = {"names": list(part.selection.class_names), "_type": "ClassLabel"}
        features = {
            ID_COLUMN: {"dtype": "string", "_type": "Value"},
            "image": {"_type": "Image"},
            "label": label,
        }
        if masked:
            features[MASK_COLUMN] = {"_type": "Image"}
        metadata[b"huggingface"] = json.dumps({"info": {"features": features}})
    return metadata
