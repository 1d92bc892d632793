"""Pieces of rows: cutting and joining keep every row, id, label and fault in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradattr.data.raw import (
    RawRows,
    check_labels,
    count_classes,
    join,
    rebatch,
    row_ids,
    to_pixels,
)
from gradattr.errors import DataError


def rows(first: int, count: int, faults: set[int], encoded: bool) -> RawRows:
    numbers = np.arange(first, first + count)
    images = [b"%d" % n for n in numbers] if encoded else numbers.reshape(-1, 1, 1, 1)
    found = {int(n - first): ("decode_error", str(n)) for n in numbers if n in faults}
    return RawRows(first, row_ids(first, count), numbers, images, found)


@given(
    lengths=st.lists(st.integers(0, 9), max_size=8),
    size=st.integers(1, 12),
    faults=st.sets(st.integers(0, 60)),
    encoded=st.booleans(),
)
def test_rebatching_keeps_every_row(lengths, size, faults, encoded):
    starts = np.cumsum([0, *lengths])
    pieces = [rows(int(s), n, faults, encoded) for s, n in zip(starts, lengths, strict=False)]
    total = int(starts[-1])
    got = list(rebatch(pieces, size))
    assert [len(batch) for batch in got] == [min(size, total - at) for at in range(0, total, size)]
    if got:
        whole, expected = join(got), rows(0, total, faults, encoded)
        assert whole.sample_ids == expected.sample_ids
        assert whole.faults == expected.faults
        assert list(whole.labels) == list(expected.labels)
        assert list(np.ravel(whole.images)) == list(np.ravel(expected.images))


def test_types_without_a_white_are_refused():
    with pytest.raises(DataError, match="pixels are int32; expected uint8"):
        to_pixels(np.zeros(3, np.int32), "x")


def test_label_ranges():
    labels = np.array([-1, 0, 2])
    check_labels(labels, 3, "x")
    check_labels(labels, None, "x")
    with pytest.raises(DataError, match=r"1 of 3 .* the first is 2 in row 2; expected 0 to 1"):
        check_labels(labels, 2, "x")
    assert count_classes(labels, None) == 3
    assert count_classes(labels, ("a", "b", "c", "d")) == 4
    assert count_classes(np.array([-1, -1]), None) is None
