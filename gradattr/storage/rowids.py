"""Sets of row numbers as ascending ranges, and the rule "every row exactly once"."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from gradattr.errors import UsageError

Ranges = tuple[tuple[int, int], ...]


def ranges_of(rows: range | Iterable[int]) -> Ranges:
    """[start, stop) ranges, ascending and not adjacent. UsageError: a row twice, or negative.

    >>> ranges_of([0, 1, 2, 7])
    ((0, 3), (7, 8))
    """
    if isinstance(rows, range) and rows.step == 1:
        if rows.start < 0:
            raise UsageError(f"row numbers begin at 0, not at {rows.start}")
        return ((rows.start, rows.stop),) if len(rows) else ()
    numbers = np.sort(np.fromiter(rows, np.int64))
    if not len(numbers):
        return ()
    steps = np.diff(numbers)
    if numbers[0] < 0 or (steps == 0).any():
        raise UsageError("row numbers: one is negative or stands there twice")
    breaks = np.flatnonzero(steps > 1)
    starts = numbers[np.concatenate(([0], breaks + 1))]
    stops = numbers[np.concatenate((breaks, [len(numbers) - 1]))] + 1
    return tuple((int(a), int(b)) for a, b in zip(starts, stops, strict=True))


def overlap(named: Iterable[tuple[str, Ranges]]) -> tuple[str, str, int] | None:
    """Two names that share a row, and the first such row; None if all are disjoint."""
    pieces = sorted((start, stop, name) for name, ranges in named for start, stop in ranges)
    furthest, owner = -1, ""
    for start, stop, name in pieces:
        if start < furthest:
            return owner, name, start
        if stop > furthest:
            furthest, owner = stop, name
    return None


def check_rows(where: str, keys: pa.Table, ranges: Ranges) -> None:
    """UsageError unless ``keys`` has every row of the ranges, once per value of its other columns.

    ``keys``: column ``row`` and perhaps ``method``; or columns of a table that has no rows of a
    data set, of which each combination may occur once.
    """
    groups = keys.group_by(keys.schema.names).aggregate([])
    if groups.num_rows != keys.num_rows:
        raise UsageError(f"{where}: {keys.num_rows - groups.num_rows} rows stand there twice")
    if "row" not in keys.schema.names:
        return
    others = [name for name in keys.schema.names if name != "row"]
    variants = keys.group_by(others).aggregate([]).num_rows if others else 1
    found = np.unique(keys["row"].to_numpy())
    parts = [np.arange(start, stop, dtype=np.int64) for start, stop in ranges]
    wanted = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if not np.array_equal(found, wanted):
        wrong = np.setxor1d(found, wanted)
        raise UsageError(f"{where}: row {wrong[0]} (and {len(wrong) - 1} more) missing or foreign")
    if keys.num_rows != len(wanted) * variants:
        raise UsageError(
            f"{where}: {keys.num_rows} rows, expected {len(wanted)} for each of {variants} {others}"
        )
