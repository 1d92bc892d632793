"""Some rows of a data set: a range of them, some classes with new labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradattr.data.classes import find_class
from gradattr.data.raw import RawRows
from gradattr.data.types import DataIndex
from gradattr.errors import DataError, UsageError

#: (START, STOP) of row numbers; None: from the first, to the last.
RowRange = tuple[int | None, int | None]


@dataclass(frozen=True)
class Selection:
    """Rows ``start`` to ``stop`` - 1 of a data set, and of them those of some classes."""

    start: int
    stop: int
    labels: tuple[int, ...] | None
    """The classes in their new order; None: all, as they are."""
    class_names: tuple[str, ...] | None
    """In label order, of what is selected."""

    def rows(self, index: DataIndex) -> NDArray[np.int64]:
        """Numbers of the selected rows, ascending. DataError if there is none, or if that cannot
        be said without reading every image."""
        numbers = np.arange(self.start, self.stop)
        if self.labels is None:
            return numbers
        labels = None if index.keys is None else index.keys.labels
        if labels is None:
            raise DataError(
                f"data format '{index.format}' does not tell its labels before its images are "
                "read, so no classes can be picked; ingest it whole, then pick from the result"
            )
        found = numbers[np.isin(labels[numbers], self.labels)]
        if not len(found):
            raise DataError(
                f"no row from {self.start} to {self.stop - 1} is of class "
                f"{' or '.join(self.class_names or ())}; the selection is empty"
            )
        return found

    def apply(self, raw: RawRows) -> RawRows:
        """The selected rows of a piece that lies in [start, stop), with their new labels."""
        if self.labels is None:
            return raw
        order = np.array(self.labels)
        at = np.flatnonzero(np.isin(raw.labels, order))
        picked = _picked(raw, at)
        equal = picked.labels[:, None] == order[None]
        return replace(picked, labels=equal.argmax(1).astype(np.int64))

    def to_json(self, index: DataIndex) -> dict[str, Any]:
        """What makes it differ from the whole data set; empty for the whole."""
        value: dict[str, Any] = {}
        if self.labels is not None:
            value["only"] = list(self.labels)
        if (self.start, self.stop) != (0, index.rows):
            value["rows"] = [self.start, self.stop]
        return value


def select(
    index: DataIndex, only: Sequence[str | int] | None = None, rows: RowRange | None = None
) -> Selection:
    """A selection of a data set. A text in ``only`` is a class name, or a number if there is no
    class of that name. DataError for an unknown class, UsageError for rows that are not there, or
    a class that is named twice."""
    start, stop = (0, index.rows) if rows is None else (rows[0] or 0, rows[1])
    stop = index.rows if stop is None else stop
    if not 0 <= start < stop <= index.rows:
        raise UsageError(
            f"rows {start}:{stop} were asked for; expected START:STOP with 0 <= START < STOP <= "
            f"{index.rows}, the rows of this data set"
        )
    if not only:
        return Selection(start, stop, None, index.class_names)
    names = index.class_names
    labels = tuple(find_class(_wanted(one, names), index, "only") for one in only)
    if len(set(labels)) != len(labels):
        raise UsageError(f"only: a class stands there twice: {', '.join(map(str, only))}")
    # A new label no longer says which class it was; a name does.
    kept = tuple(str(label) if names is None else names[label] for label in labels)
    return Selection(start, stop, labels, kept)


def _wanted(one: str | int, names: tuple[str, ...] | None) -> str | int:
    if isinstance(one, str) and one not in (names or ()) and one.isascii() and one.isdigit():
        return int(one)
    return one


def _picked(raw: RawRows, at: NDArray[np.int64]) -> RawRows:
    """The rows at these positions; ``first`` no longer means anything."""
    places = at.tolist()

    def some(part: Any) -> Any:
        if part is None or isinstance(part, np.ndarray):
            return None if part is None else part[at]
        return [part[place] for place in places]

    return RawRows(
        raw.first,
        some(raw.sample_ids),
        raw.labels[at],
        some(raw.images),
        {new: raw.faults[old] for new, old in enumerate(places) if old in raw.faults},
        some(raw.masks),
        some(raw.signal_on_top),
        some(raw.patched),
    )
