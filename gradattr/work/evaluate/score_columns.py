"""What the shards of an evaluation say of every image, as columns of numbers aligned by image.

A file is read at a time and only its numbers are kept: no image is a Python object, and the order
of shards, files and rows leaves no trace in a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradattr.errors import ShardError
from gradattr.storage.objects import ObjectStore
from gradattr.storage.parts import read_parts
from gradattr.storage.shards import ShardRecord

Numbers: TypeAlias = NDArray[np.float64]
#: Row numbers (k,), and what those images have: (k,) or (k, steps).
Part = tuple[NDArray[np.int64], Numbers]
Parts = list[Part]
Key = TypeVar("Key")

_KEPT = {
    "scores": ["row", "metric", "method", "value"],
    "sample_curves": ["row", "curve", "method", "values"],
    "sample_agreement": [
        "row", "first", "second", "spearman", "spearman_magnitude", "top_overlap",
    ],
}  # fmt: skip
#: What to do about shards that contradict each other.
RUN_AGAIN = "delete the records of the stage 'judge' and run the same command again"
AGREEMENT_MEASURES = ("spearman", "spearman_magnitude", "top_overlap")


def gather_scores(
    store: ObjectStore, records: Iterable[ShardRecord]
) -> dict[str, dict[str, Parts]]:
    """metric -> method -> values, NaN where there is none."""
    found: dict[str, dict[str, Parts]] = {}
    for table in read_parts(store, records, "scores", _KEPT["scores"]):
        values = _numbers(table, "value")
        for (metric, method), rows, where in _groups(table, ("metric", "method")):
            parts = found.setdefault(metric, {}).setdefault(method, [])
            parts.append((rows, values[where]))
    return found


def gather_curves(
    store: ObjectStore, records: Iterable[ShardRecord]
) -> dict[str, dict[str, Parts]]:
    """curve -> method -> values (k, steps), NaN where there is none; of images without a curve
    (k, 0)."""
    found: dict[str, dict[str, Parts]] = {}
    for table in read_parts(store, records, "sample_curves", _KEPT["sample_curves"]):
        lists = _one_array(table, "values")
        for (curve, method), rows, where in _groups(table, ("curve", "method")):
            there, values = _rectangle(curve, lists.take(pa.array(where)))
            parts = found.setdefault(curve, {}).setdefault(method, [])
            parts.append((rows[there], values))
            parts.append((rows[~there], np.empty((int((~there).sum()), 0))))
    return found


def gather_agreement(
    store: ObjectStore, records: Iterable[ShardRecord]
) -> dict[str, dict[tuple[str, str], Parts]]:
    """measure -> (first, second) -> values, NaN where there is none."""
    found: dict[str, dict[tuple[str, str], Parts]] = {name: {} for name in AGREEMENT_MEASURES}
    for table in read_parts(store, records, "sample_agreement", _KEPT["sample_agreement"]):
        values = {name: _numbers(table, name) for name in AGREEMENT_MEASURES}
        for (first, second), rows, where in _groups(table, ("first", "second")):
            for name, column in values.items():
                found[name].setdefault((first, second), []).append((rows, column[where]))
    return found


def aligned(what: str, found: Mapping[Key, Parts]) -> dict[Key, Numbers]:
    """A column per key, (n,), over the n images that any of them has, by ascending row number; NaN
    where an image has no value. Of curves (n, steps).

    ShardError: an image stands there twice, or curves have different numbers of steps.
    """
    every = [rows for parts in found.values() for rows, _ in parts]
    images = np.unique(np.concatenate(every)) if every else np.empty(0, np.int64)
    columns = {}
    for key, parts in found.items():
        shape = _shape(what, [values for _, values in parts])
        column = np.full((len(images), *shape), np.nan)
        rows = np.concatenate([rows for rows, _ in parts])
        if len(np.unique(rows)) < len(rows):
            raise ShardError(
                f"{what}: {len(rows) - len(np.unique(rows))} images of {_named(key)} stand there "
                f"twice; {RUN_AGAIN}"
            )
        for rows, values in parts:
            if values.size:
                column[np.searchsorted(images, rows)] = values
        columns[key] = column
    return columns


def drop_infinite(columns: Mapping[Key, Numbers]) -> int:
    """Make infinite values NaN, in place; how many there were."""
    count = 0
    for column in columns.values():
        infinite = np.isinf(column)
        count += int(infinite.sum())
        column[infinite] = np.nan
    return count


def _shape(what: str, parts: Sequence[Numbers]) -> tuple[int, ...]:
    """() of numbers, (steps,) of curves."""
    shapes = {values.shape[1:] for values in parts} - {(0,)}
    if len(shapes) > 1:
        lengths = " and ".join(str(steps) for (steps,) in sorted(shapes))
        raise ShardError(f"{what}: some curves have {lengths} steps; {RUN_AGAIN}")
    return next(iter(shapes), (0,))


def _named(key: object) -> str:
    return " and ".join(key) if isinstance(key, tuple) else str(key)


def _groups(
    table: pa.Table, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]]:
    """Each combination of these columns' values: itself, its row numbers, and where they stand."""
    rows = _one_array(table, "row").to_numpy()
    codes = np.zeros(len(rows), np.int64)
    words: list[list[str]] = []
    for name in names:
        encoded = _one_array(table, name).dictionary_encode()
        words.append(encoded.dictionary.to_pylist())
        codes = codes * max(1, len(words[-1])) + encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    for code, where in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
        key: list[str] = []
        for values in reversed(words):
            code, place = divmod(code, len(values))
            key.insert(0, values[place])
        yield tuple(key), rows[where], where


def _rectangle(curve: str, lists: pa.ListArray) -> tuple[NDArray[np.bool_], Numbers]:
    """(k,): which lists are there; and those, (some, steps)."""
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    count = int(there.sum())
    lengths = set(lists.drop_null().value_lengths().to_pylist())
    if len(lengths) > 1:
        some = " and ".join(str(steps) for steps in sorted(lengths))
        raise ShardError(f"curve {curve}: some images have {some} steps; {RUN_AGAIN}")
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return there, np.asarray(flat, np.float64).reshape(count, next(iter(lengths), 0))


def _numbers(table: pa.Table, name: str) -> Numbers:
    """A column as float64, NaN for null."""
    return np.asarray(_one_array(table, name).to_numpy(zero_copy_only=False), np.float64)


def _one_array(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
