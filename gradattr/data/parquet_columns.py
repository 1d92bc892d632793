"""Arrow columns of images, labels and ids to what a batch is made of."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gradattr.data.raw import Fault, to_pixels
from gradattr.errors import DataError

#: Key of the schema metadata of files that ``ingest`` wrote.
NATIVE = b"gradattr"


@dataclass(frozen=True)
class ImageColumn:
    """How a column holds images. ``kind`` is 'struct' (bytes and path), 'binary' or 'raw'."""

    name: str
    kind: str
    shape: tuple[int, int, int] | None
    """(channels, height, width) of a raw column."""
    axes: tuple[int, int, int]
    """Where channels, height and width stand in the stored order."""


def image_column(
    schema: pa.Schema, name: str, shape: Sequence[int] | None, where: str
) -> ImageColumn:
    """What the schema says about the image column. DataError if it holds no images."""
    kind = require_column(schema, name, "image", where).type
    tensor, axes = _tensor_shape(kind)
    stored = tensor or _hugging_face_shape(schema, name)
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_struct(kind):
        if kind.get_field_index("bytes") >= 0:
            return ImageColumn(name, "struct", None, (0, 1, 2))
        raise DataError(f"{where}: column {name!r} is {kind}, a struct without a field 'bytes'")
    if _is_binary(kind) and not pa.types.is_fixed_size_binary(kind):
        return ImageColumn(name, "binary", None, (0, 1, 2))
    leaf, depth = kind, 0
    while _is_list(leaf):
        leaf, depth = leaf.value_type, depth + 1
    if depth == 0:
        raise DataError(
            f"{where}: column {name!r} is {kind}; expected struct<bytes, path>, binary, or lists "
            "of uint8 or float"
        )
    to_pixels(np.empty(0, leaf.to_pandas_dtype()), f"{where}: column {name!r}")
    if stored is None and shape is None:
        raise DataError(
            f"{where}: column {name!r} holds raw tensors and does not say their shape; "
            "set shape: [channels, height, width]"
        )
    if stored is not None:
        found = tuple(stored[axis] for axis in axes)
        if shape is not None and tuple(shape) != found:
            raise DataError(f"{where}: column {name!r} has shape {found}, 'shape' says {shape}")
        return ImageColumn(name, "raw", (found[0], found[1], found[2]), axes)
    channels, height, width = shape or ()
    return ImageColumn(name, "raw", (channels, height, width), (0, 1, 2))


def require_column(schema: pa.Schema, name: str, key: str, where: str) -> pa.Field:
    """The field, or a DataError that lists the columns there are."""
    if name in schema.names:
        return schema.field(name)
    near = difflib.get_close_matches(name, schema.names, 1, 0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    null = ", or to null for none" if key in ("label", "id", "mask") else ""
    raise DataError(
        f"{where}: no column {name!r}; there are {', '.join(map(repr, schema.names))}{hint} "
        f"Set '{key}' to a column{null}"
    )


def class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Names of an ingested data set, or of a Hugging Face ClassLabel, from the metadata."""
    names = native_metadata(schema).get("classes") or _hugging_face_feature(schema, label).get(
        "names"
    )
    if isinstance(names, dict):
        names = names.get("names")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def native_metadata(schema: pa.Schema) -> dict[str, Any]:
    """What ``ingest`` wrote about its data set; empty for other files."""
    try:
        value = json.loads((schema.metadata or {})[NATIVE])
    except (KeyError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_labels(
    column: pa.ChunkedArray | pa.Array, names: tuple[str, ...] | None, where: str
) -> NDArray[np.int64]:
    """(n,) int64; null becomes -1. DataError for strings that are no class, or other types."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _named_labels(column, names, where)
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(f"{where}: labels are {column.type}; expected integers or class names")
    filled = pc.fill_null(pc.cast(column, pa.int64()), -1)
    labels: NDArray[np.int64] = filled.to_numpy(zero_copy_only=False).astype(np.int64)
    return labels


def _named_labels(column: pa.Array, names: tuple[str, ...] | None, where: str) -> pa.Array:
    if names is None:
        raise DataError(f"{where}: labels are strings; list them in 'classes', in label order")
    found = pc.index_in(column, value_set=pa.array(names, column.type))
    unknown = pc.and_(pc.is_null(found), pc.is_valid(column))
    if pc.any(unknown).as_py():
        at = pc.index(unknown, True).as_py()
        text = column[at].as_py()
        near = difflib.get_close_matches(text, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"{where}: label {text[:100]!r} (row {at} of the file, {pc.sum(unknown).as_py()} rows "
            f"in all) is not in 'classes'{hint}"
        )
    return found


def read_images(
    array: pa.Array, column: ImageColumn
) -> tuple[NDArray[np.generic] | list[bytes | None], dict[int, Fault]]:
    """Images as RawRows wants them, and the rows that hold none, by position."""
    if column.kind == "raw":
        return _raw_images(array, column)
    faults: dict[int, Fault] = {}
    images = pc.struct_field(array, "bytes") if column.kind == "struct" else array
    if column.kind == "struct" and images.null_count and array.type.get_field_index("path") >= 0:
        only = pc.and_(pc.is_null(images), pc.is_valid(pc.struct_field(array, "path")))
        for at in np.flatnonzero(only.to_numpy(zero_copy_only=False)):
            faults[int(at)] = (
                "decode_error",
                "the row has a path and no bytes; paths in a data set are not followed",
            )
    return images.to_pylist(), faults


def _raw_images(
    array: pa.Array, column: ImageColumn
) -> tuple[NDArray[np.generic], dict[int, Fault]]:
    assert column.shape is not None
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    leaf, offsets = _leaves(array)
    size = math.prod(column.shape)
    faults: dict[int, Fault] = {}
    lengths = np.diff(offsets)
    for at in np.flatnonzero(~valid):
        faults[int(at)] = ("decode_error", "the row has no image (null)")
    for at in np.flatnonzero(valid & (lengths != size)):
        faults[int(at)] = (
            "shape_error",
            f"the row has {int(lengths[at])} values, {column.shape} needs {size}",
        )
    if leaf.null_count:
        holes = np.flatnonzero(leaf.is_null().to_numpy(zero_copy_only=False))
        for at in np.unique(np.searchsorted(offsets, holes, side="right") - 1):
            if 0 <= at < len(lengths):
                faults.setdefault(int(at), ("decode_error", "the row has null pixels"))
        leaf = pc.fill_null(leaf, 0)
    values = leaf.to_numpy(zero_copy_only=False)
    if (lengths == size).all():
        flat = values[offsets[0] : offsets[-1]]
    else:
        flat = np.zeros((len(lengths), size), values.dtype)
        for at in np.flatnonzero(lengths == size):
            flat[at] = values[offsets[at] : offsets[at + 1]]
    stored = [0, 0, 0]
    for extent, axis in zip(column.shape, column.axes, strict=True):
        stored[axis] = extent
    images = to_pixels(flat.reshape(-1, *stored), column.name)
    return images.transpose(0, *(axis + 1 for axis in column.axes)), faults


def _leaves(array: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """The innermost values of nested lists, and the offsets (n + 1,) of each row in them."""
    offsets: NDArray[np.int64] | None = None
    while _is_list(array.type):
        if pa.types.is_fixed_size_list(array.type):
            width = array.type.list_size
            inner = (np.arange(len(array) + 1, dtype=np.int64) + array.offset) * width
        else:
            inner = array.offsets.to_numpy().astype(np.int64)
        offsets = inner if offsets is None else inner[offsets]
        array = array.values
    assert offsets is not None
    return array, offsets


def _tensor_shape(kind: Any) -> tuple[list[int] | None, tuple[int, int, int]]:
    """Stored shape of a fixed-shape tensor type, and where C, H, W stand in it."""
    if not isinstance(kind, pa.FixedShapeTensorType):
        return None, (0, 1, 2)
    shape, names = list(kind.shape), kind.dim_names
    if len(shape) == 2:
        return [1, *shape], (0, 1, 2)
    if len(shape) != 3:
        raise DataError(
            f"tensors of {len(shape)} dimensions; images have [channels,] height, width"
        )
    if names is None:
        return shape, (0, 1, 2)
    initials = [name[:1].upper() for name in names]
    if sorted(initials) != ["C", "H", "W"]:
        raise DataError(f"tensor dimensions {names}; expected C, H and W")
    return shape, (initials.index("C"), initials.index("H"), initials.index("W"))


def _hugging_face_feature(schema: pa.Schema, name: str) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[name]
    except (KeyError, TypeError, ValueError):
        return {}
    return feature if isinstance(feature, dict) else {}


def _hugging_face_shape(schema: pa.Schema, name: str) -> list[int] | None:
    """Shape of an Array2D or Array3D feature."""
    shape = _hugging_face_feature(schema, name).get("shape")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        return None
    return {2: [1, *shape], 3: shape}.get(len(shape))


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_binary(kind: Any) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
