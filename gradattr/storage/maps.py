"""How a map is kept: six choices, each a pair of encoder and decoder.

=========== =================================== ============================================
choice      columns                             what comes back
=========== =================================== ============================================
float32     map: tensor (C, H, W)               the map, exactly
float16     map: tensor, scale                  within 2**-11 of each value (and 2**-25 of the
                                                largest)
int8        map: bytes (C*H*W), scale           within scale / 254
pooled:<n>  map: float16 tensor (C, n, n),      the mean of each cell, spread over the cell
            scale
topk:<k>    map_index, map_value, scale         the k largest |values|, 0 elsewhere
none        -                                   nothing
=========== =================================== ============================================

Maps are divided by ``scale`` = their largest |value| first: float16 underflows below 1e-5. In
SQL, a value of a float16, pooled or topk map is ``map[i] * scale`` with i from 1 in (C, H, W)
order. A map with NaN or infinity is stored as null, never as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gradattr.errors import UsageError

Shape = tuple[int, int, int]
Maps = np.ndarray | Sequence[np.ndarray | None]

_INT8_MAX = 127
_SCALE = ("scale", pa.float32(), True, "largest |value| of the map; stored values are relative")


def split_choice(choice: str) -> tuple[str, int]:
    """('pooled', 7) of 'pooled:7'; the number is 0 where there is none."""
    kind, _, number = choice.partition(":")
    if kind in ("pooled", "topk") and number.isdigit() and int(number) > 0:
        return kind, int(number)
    if choice in ("float16", "float32", "int8", "none"):
        return choice, 0
    raise UsageError(
        f"store.maps: {choice!r}, expected float16, float32, int8, pooled:<n>, topk:<k> or none"
    )


def map_fields(choice: str, shape: Shape) -> tuple[tuple[str, pa.DataType, bool, str], ...]:
    """Columns (name, type, nullable, description) that hold maps of ``shape`` = (C, H, W)."""
    kind, _ = split_choice(choice)
    order = "in (channel, row, column) order"
    if kind == "none":
        return ()
    if kind == "float32":
        tensor = pa.fixed_shape_tensor(pa.float32(), shape)
        return (("map", tensor, True, f"the map, {order}"),)
    if kind == "int8":
        text = f"one signed byte per value, {order}; value = byte / 127 * scale"
        return (_SCALE, ("map", pa.binary(), True, text))
    if kind == "topk":
        return (
            _SCALE,
            ("map_index", pa.list_(pa.int32()), True, f"positions, {order}, from 0; largest first"),
            ("map_value", pa.list_(pa.float16()), True, "values / scale at these positions"),
        )
    stored = _stored_shape(choice, shape)
    text = f"the map / scale, {order}" + ("; means of grid cells" if kind == "pooled" else "")
    return (_SCALE, ("map", pa.fixed_shape_tensor(pa.float16(), stored), True, text))


def encode_maps(maps: Maps, choice: str, shape: Shape | None = None) -> dict[str, pa.Array]:
    """Columns of the table ``maps`` for (n, C, H, W) float32, or a list with None for no map.

    Returns ``channels``, ``height``, ``width`` and those of ``map_fields``; all null where there
    is no map or where it is not finite. ``shape`` is needed if no map tells it.
    """
    shape = shape or _shape_of(maps)
    dense, valid = _dense(maps, shape)
    columns = {
        "channels": _constant(shape[0], valid, pa.int16()),
        "height": _constant(shape[1], valid, pa.int32()),
        "width": _constant(shape[2], valid, pa.int32()),
    }
    kind, number = split_choice(choice)
    if kind == "none":
        return columns
    if kind == "float32":
        return columns | {"map": _tensor(dense, valid)}
    if kind == "pooled":
        dense = _pool(dense, number)
    flat = dense.reshape(len(dense), -1)
    scale = np.abs(flat).max(axis=1, initial=0.0).astype(np.float32)
    columns["scale"] = pa.array(scale, pa.float32(), mask=~valid)
    unit = flat / np.where(scale > 0, scale, np.float32(1))[:, None]
    if kind == "int8":
        bytes_ = np.rint(unit * _INT8_MAX).astype(np.int8)
        return columns | {"map": _binary(bytes_, valid)}
    if kind == "topk":
        return columns | _top(flat, unit, number, valid)
    return columns | {"map": _tensor(unit.astype(np.float16).reshape(dense.shape), valid)}


def decode_map(row: Mapping[str, Any], choice: str) -> np.ndarray | None:
    """(C, H, W) float32 of one row of the table ``maps``; None if it has no map.

    ``row`` maps column names to Python values, as ``Table.to_pylist()`` gives them.
    """
    kind, _ = split_choice(choice)
    if kind == "none" or row["channels"] is None:
        return None
    shape = (int(row["channels"]), int(row["height"]), int(row["width"]))
    if kind == "float32":
        return np.asarray(row["map"], np.float32).reshape(shape)
    scale = np.float32(row["scale"])
    if kind == "int8":
        whole = np.frombuffer(row["map"], np.int8).astype(np.float32)
        return (whole / np.float32(_INT8_MAX) * scale).reshape(shape)
    if kind == "topk":
        flat = np.zeros(int(np.prod(shape)), np.float32)
        flat[np.asarray(row["map_index"], np.int64)] = np.asarray(row["map_value"], np.float32)
        return (flat * scale).reshape(shape)
    values = np.asarray(row["map"], np.float32) * scale
    if kind == "pooled":
        return _spread(values.reshape(_stored_shape(choice, shape)), shape)
    return values.reshape(shape)


def map_bytes_per_row(choice: str, shape: Shape) -> int:
    """Bytes of one map before compression (which saves little on maps)."""
    kind, number = split_choice(choice)
    values = int(np.prod(shape))
    if kind == "pooled":
        return 2 * int(np.prod(_stored_shape(choice, shape))) + 4
    if kind == "topk":
        return 6 * min(number, values) + 4
    return {"none": 0, "float32": 4 * values, "float16": 2 * values + 4, "int8": values + 4}[kind]


def _stored_shape(choice: str, shape: Shape) -> Shape:
    kind, number = split_choice(choice)
    if kind == "pooled":
        return shape[0], min(number, shape[1]), min(number, shape[2])
    return shape


def _shape_of(maps: Maps) -> Shape:
    for one in maps:
        if one is not None:
            channels, height, width = one.shape
            return channels, height, width
    raise UsageError("maps: none of them is there to tell the shape; pass it")


def _dense(maps: Maps, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """(n, C, H, W) float32 with zeros where there is no map, and which ones are there."""
    if isinstance(maps, np.ndarray):
        dense = np.ascontiguousarray(maps, np.float32)
        finite = np.logical_and.reduce(np.isfinite(dense), axis=(1, 2, 3))
        if not finite.all():
            dense = np.where(finite[:, None, None, None], dense, np.float32(0))
    else:
        dense = np.zeros((len(maps), *shape), np.float32)
        finite = np.zeros(len(maps), bool)
        for number, one in enumerate(maps):
            if one is not None and np.isfinite(one).all():
                dense[number], finite[number] = one, True
    if dense.shape[1:] != tuple(shape):
        raise UsageError(f"maps: shape {dense.shape[1:]}, expected {tuple(shape)}")
    return dense, finite


def _constant(value: int, valid: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(np.full(len(valid), value, kind.to_pandas_dtype()), kind, mask=~valid)


def _tensor(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), values.shape[1:])
    size = int(np.prod(values.shape[1:]))
    storage = pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), size, mask=None if valid.all() else pa.array(~valid)
    )
    return pa.ExtensionArray.from_storage(kind, storage)


def _binary(values: np.ndarray, valid: np.ndarray) -> pa.Array:
    rows = [row.tobytes() if there else None for row, there in zip(values, valid, strict=True)]
    return pa.array(rows, pa.binary())


def _top(flat: np.ndarray, unit: np.ndarray, k: int, valid: np.ndarray) -> dict[str, pa.Array]:
    indices: list[np.ndarray | None] = []
    values: list[np.ndarray | None] = []
    for number, there in enumerate(valid):
        chosen = _largest(np.abs(flat[number]), k) if there else None
        indices.append(chosen)
        values.append(None if chosen is None else unit[number][chosen].astype(np.float16))
    return {
        "map_index": pa.array(indices, pa.list_(pa.int32())),
        "map_value": pa.array(values, pa.list_(pa.float16())),
    }


def _largest(magnitude: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, largest first; among equals the lower index."""
    if k < len(magnitude):
        threshold = np.partition(magnitude, len(magnitude) - k)[len(magnitude) - k]
        candidates = np.flatnonzero(magnitude >= threshold)
    else:
        candidates = np.arange(len(magnitude))
    order = np.argsort(-magnitude[candidates], kind="stable")[:k]
    return candidates[order].astype(np.int32)


def _edges(size: int, cells: int) -> np.ndarray:
    """Where each of ``cells`` cells begins, and the end: they differ by one at most."""
    return np.arange(cells + 1) * size // cells


def _pool(maps: np.ndarray, n: int) -> np.ndarray:
    """(N, C, H, W) -> (N, C, min(n, H), min(n, W)): means of the cells."""
    out = maps.astype(np.float64)
    for axis in (2, 3):
        edges = _edges(maps.shape[axis], min(n, maps.shape[axis]))
        shape = [1, 1, 1, 1]
        shape[axis] = len(edges) - 1
        out = np.add.reduceat(out, edges[:-1], axis=axis) / np.diff(edges).reshape(shape)
    return out.astype(np.float32)


def _spread(pooled: np.ndarray, shape: Shape) -> np.ndarray:
    """(C, n, n) -> (C, H, W): each cell's mean at each of its pixels."""
    rows = np.diff(_edges(shape[1], pooled.shape[1]))
    columns = np.diff(_edges(shape[2], pooled.shape[2]))
    return np.repeat(np.repeat(pooled, rows, axis=1), columns, axis=2)
