"""Rows as a format stores them, before any pixel is decoded, scaled or resized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradattr.errors import DataError

#: (status, text) of a row that its format already knows to be bad.
Fault = tuple[str, str]

#: A file's bytes; (3, height, width) uint8 where the image was decoded already, to be painted on.
Encoded = bytes | NDArray[np.uint8] | None

#: (n, height, width) bool; or of images that differ in size one each, None where nothing is marked.
Masks = NDArray[np.bool_] | list[NDArray[np.bool_] | None]


@dataclass
class RawRows:
    """A contiguous piece of a data set: n rows from number ``first`` on."""

    first: int
    sample_ids: list[str]
    labels: NDArray[np.int64]
    """(n,), -1 where there is none."""
    images: NDArray[np.generic] | Sequence[Encoded]
    """(n, channels, height, width) uint8, or float32 in [0, 1] units; or n encoded images."""
    faults: dict[int, Fault] = field(default_factory=dict)
    """By position in this piece. The images at these positions are never looked at."""
    masks: Masks | None = None
    """True in the marked region of an image, in the size of the image; None: no masks."""
    signal_on_top: NDArray[np.bool_] | None = None
    """(n,), of BlockMNIST: whether the upper block holds the signal."""
    patched: NDArray[np.bool_] | None = None
    """(n,), of data with 'patch': whether the image is among those that are patched."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    def part(self, start: int, stop: int) -> RawRows:
        """The rows at positions [start, stop)."""
        return RawRows(
            self.first + start,
            self.sample_ids[start:stop],
            self.labels[start:stop],
            self.images[start:stop],
            {at - start: fault for at, fault in self.faults.items() if start <= at < stop},
            None if self.masks is None else self.masks[start:stop],
            None if self.signal_on_top is None else self.signal_on_top[start:stop],
            None if self.patched is None else self.patched[start:stop],
        )


def join(pieces: list[RawRows]) -> RawRows:
    """Adjacent pieces of one data set as one piece."""
    if len(pieces) == 1:
        return pieces[0]
    images: NDArray[np.generic] | list[Encoded]
    if isinstance(pieces[0].images, list):
        images = [image for piece in pieces for image in piece.images]
    else:
        images = np.concatenate([np.asarray(piece.images) for piece in pieces])
    faults: dict[int, Fault] = {}
    for piece in pieces:
        shift = piece.first - pieces[0].first
        faults.update({at + shift: fault for at, fault in piece.faults.items()})
    tops = [piece.signal_on_top for piece in pieces if piece.signal_on_top is not None]
    patched = [piece.patched for piece in pieces if piece.patched is not None]
    return RawRows(
        pieces[0].first,
        [sample_id for piece in pieces for sample_id in piece.sample_ids],
        np.concatenate([piece.labels for piece in pieces]),
        images,
        faults,
        _joined_masks(pieces),
        np.concatenate(tops) if tops else None,
        np.concatenate(patched) if patched else None,
    )


def _joined_masks(pieces: list[RawRows]) -> Masks | None:
    masks = [piece.masks for piece in pieces if piece.masks is not None]
    arrays = [part for part in masks if isinstance(part, np.ndarray)]
    if not masks:
        return None
    if len(arrays) == len(masks):
        return np.concatenate(arrays)
    return [mask for part in masks for mask in part]


def rebatch(pieces: Iterable[RawRows], size: int) -> Iterator[RawRows]:
    """The same rows in pieces of ``size`` (the last may be smaller)."""
    waiting: list[RawRows] = []
    count = 0
    for whole in pieces:
        rest = whole
        while count + len(rest) >= size:
            take = size - count
            yield join([*waiting, rest.part(0, take)])
            rest = rest.part(take, len(rest))
            waiting, count = [], 0
        if len(rest):
            waiting.append(rest)
            count += len(rest)
    if waiting:
        yield join(waiting)


def row_ids(first: int, count: int) -> list[str]:
    """Sample ids of data without its own: the row number, zero-padded to eight digits."""
    return [f"{row:08d}" for row in range(first, first + count)]


def no_labels(count: int) -> NDArray[np.int64]:
    return np.full(count, -1, dtype=np.int64)


def to_pixels(array: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    """Raw pixels as uint8, or as float32 that is taken to be in [0, 1] units already.

    16-bit becomes 8-bit by its high byte, bool becomes 0 and 255. DataError for other types: an
    int64 array does not say what its white is.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return np.right_shift(array.astype(np.uint16), 8).astype(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    raise DataError(
        f"{where}: pixels are {array.dtype}; expected uint8, uint16, bool, or floats in [0, 1]"
    )


def check_labels(labels: NDArray[np.int64], classes: int | None, where: str) -> None:
    """DataError with the numbers if a label is below -1, or not below ``classes``."""
    bad = labels < -1
    if classes is not None:
        bad |= labels >= classes
    if not bad.any():
        return
    at = int(np.argmax(bad))
    expected = "0 or more" if classes is None else f"0 to {classes - 1} ({classes} classes)"
    raise DataError(
        f"{where}: {int(bad.sum())} of {len(labels)} labels are out of range, the first is "
        f"{int(labels[at])} in row {at}; expected {expected}, or -1 for no label. "
        "Give the right 'classes', or correct the labels"
    )


def count_classes(labels: NDArray[np.int64] | None, names: tuple[str, ...] | None) -> int | None:
    """Number of classes: of the names where there are names, else the largest label + 1."""
    if names is not None:
        return len(names)
    if labels is None or not len(labels) or labels.max() < 0:
        return None
    return int(labels.max()) + 1
