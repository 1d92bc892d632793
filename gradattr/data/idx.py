"""IDX files, plain or gzip: MNIST and its relatives.

Layout: two zero bytes, a type byte (0x08 unsigned byte, 0x0B int16, 0x0C int32), the number of
dimensions, each dimension as a big-endian uint32, then the values in C order.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gradattr.canonical import digest_json
from gradattr.data.cache import shared
from gradattr.data.files import Files, changed
from gradattr.data.raw import RawRows, check_labels, count_classes, no_labels, row_ids
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import IdxData

_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class IdxHeader:
    """What stands before the values."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    zipped: bool

    @property
    def offset(self) -> int:
        return 4 + 4 * len(self.shape)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Of the whole file, decompressed."""
        return self.offset + self.shape[0] * self.row_bytes


class IdxReader:
    """Rows in file order; ids are row numbers."""

    def __init__(self, spec: IdxData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        spec = self.spec
        size, digest = self.files.digest(spec.images, spec.digest)
        header = self._header(spec.images, size)
        image = _image_shape(header, spec.images, spec.max_pixels)
        rows = header.shape[0]
        extra = {"image": list(image), "digest": digest, "bytes": size}
        labels = None
        if spec.labels is not None:
            label_size, label_digest = self.files.digest(spec.labels, spec.digest)
            labels = self._labels(spec.labels, label_size, label_digest)
            if len(labels) != rows:
                raise DataError(
                    f"{spec.labels}: {len(labels)} labels for {rows} images in {spec.images}; "
                    "the two files do not belong together"
                )
            extra |= {"labels": [label_size, label_digest]}
            size, digest = size + label_size, digest_json([digest, label_digest])
        names = tuple(spec.classes) if spec.classes else None
        if labels is not None:
            check_labels(labels, len(names) if names else None, str(spec.labels))
        file = FileRef(spec.images, size, digest, 0, rows, extra)
        classes = count_classes(labels, names)
        keys = RowKeys(no_labels(rows) if labels is None else labels)
        channels, height, width = image
        return DataIndex("idx", rows, (file,), classes, names, channels, (height, width), keys)

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        (file,) = shard.files
        start, stop = shard.start, shard.start + shard.rows
        images = self._images(file, start, stop)
        labels = no_labels(shard.rows)
        if self.spec.labels is not None and "labels" in file.extra:
            self.files.check_unchanged(self.spec.labels, file.extra["labels"][0])
            labels = self._labels(self.spec.labels, *file.extra["labels"])[start:stop]
        if len(labels) != shard.rows:
            raise DataError(changed(file.url, "it has fewer rows"))
        yield RawRows(start, row_ids(start, shard.rows), labels, images)

    def _images(self, file: FileRef, start: int, stop: int) -> NDArray[np.generic]:
        self.files.check_unchanged(file.url, file.extra["bytes"])
        header = self._header(file.url, None)
        if list(_image_shape(header, file.url, self.spec.max_pixels)) != file.extra["image"]:
            raise DataError(changed(file.url, "its images have another shape"))
        if header.zipped:
            values = self._whole(file.url, file.extra["digest"])[start:stop]
        else:
            begin = header.offset + start * header.row_bytes
            data = self.files.read(file.url, begin, begin + (stop - start) * header.row_bytes)
            values = np.frombuffer(data, np.uint8).reshape(-1, *header.shape[1:])
        return _channels_first(values)

    def _labels(self, url: str, size: int, digest: str) -> NDArray[np.int64]:
        def load() -> NDArray[np.int64]:
            header = self._header(url, size)
            if len(header.shape) != 1:
                raise DataError(
                    f"{url}: {len(header.shape)} dimensions, labels have one; "
                    "are 'images' and 'labels' swapped?"
                )
            return self._values(url, header).astype(np.int64)

        return shared.get((url, digest, "labels"), load, lambda array: array.nbytes)

    def _whole(self, url: str, digest: str) -> NDArray[np.generic]:
        def load() -> NDArray[np.generic]:
            return self._values(url, self._header(url, None))

        return shared.get((url, digest, "images"), load, lambda array: array.nbytes)

    def _values(self, url: str, header: IdxHeader) -> NDArray[np.generic]:
        with self.files.open(url) as file:
            data = _read_all(file, header, url, keep=True)
        return np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.shape)

    def _header(self, url: str, size: int | None) -> IdxHeader:
        """Parse the header; with the file's ``size`` given, also check that all values are there
        (which decompresses a gzip file once, without keeping it)."""
        with self.files.open(url) as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            header = _parse(file, url, zipped)
            if size is None:
                return header
            if not zipped and size != header.bytes:
                raise _wrong_length(url, header, size)
            if zipped:
                file.seek(0)
                _read_all(file, header, url, keep=False)
        return header


def _parse(file: IO[bytes], url: str, zipped: bool) -> IdxHeader:
    start = _first_bytes(file, 4, url, zipped)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise DataError(
            f"{url}: not an IDX file: it begins with {start.hex() or 'nothing'}, expected 0000, "
            "a type (08, 0b, 0c) and the number of dimensions"
        )
    dims = start[3]
    if not 1 <= dims <= 4:
        raise DataError(f"{url}: {dims} dimensions; expected 1 for labels, 3 or 4 for images")
    file.seek(0)
    sizes = _first_bytes(file, 4 + 4 * dims, url, zipped)[4:]
    if len(sizes) < 4 * dims:
        raise DataError(f"{url}: truncated in its header")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    return IdxHeader(_TYPES[start[2]], shape, zipped)


def _first_bytes(file: IO[bytes], count: int, url: str, zipped: bool) -> bytes:
    if not zipped:
        return file.read(count)
    with _gzip_errors(url), gzip.GzipFile(fileobj=file) as stream:
        return stream.read(count)


def _read_all(file: IO[bytes], header: IdxHeader, url: str, *, keep: bool) -> bytes:
    """All bytes, never more than the header promises and one. DataError if they are not those."""
    pieces = []
    total = 0
    stream = gzip.GzipFile(fileobj=file) if header.zipped else file
    with _gzip_errors(url):
        while total <= header.bytes:
            piece = stream.read(min(_BLOCK, header.bytes + 1 - total))
            if not piece:
                break
            total += len(piece)
            if keep:
                pieces.append(piece)
    if total != header.bytes:
        raise _wrong_length(url, header, total)
    return b"".join(pieces)


@contextmanager
def _gzip_errors(url: str) -> Iterator[None]:
    """Damage inside a gzip stream as DataError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{url}: the gzip data is truncated or damaged ({error}); get the file again"
        ) from None


def _wrong_length(url: str, header: IdxHeader, found: int) -> DataError:
    shape = " x ".join(map(str, header.shape))
    relation = "only" if found < header.bytes else "at least"
    return DataError(
        f"{url}: its header says {shape} values = {header.bytes} bytes, there are {relation} "
        f"{found}; {'truncated' if found < header.bytes else 'damaged'}, get the file again"
    )


def _image_shape(header: IdxHeader, url: str, max_pixels: int) -> tuple[int, int, int]:
    """(channels, height, width). Of four dimensions the colour is the last, or else the second."""
    if header.dtype.itemsize != 1 or len(header.shape) not in (3, 4):
        raise DataError(
            f"{url}: {len(header.shape)} dimensions of {header.dtype.itemsize} bytes; images are "
            "3 or 4 dimensions of unsigned bytes"
        )
    shape = header.shape[1:] if len(header.shape) == 4 else (*header.shape[1:], 1)
    if shape[2] not in (1, 3, 4):
        shape = (*shape[1:], shape[0])
    height, width, channels = shape
    if channels not in (1, 3, 4):
        raise DataError(f"{url}: no dimension of {header.shape} is 1, 3 or 4 colour channels")
    if height * width > max_pixels or height * width == 0:
        raise DataError(
            f"{url}: images of {width}x{height} pixels; expected 1 to max_pixels = {max_pixels}"
        )
    return channels, height, width


def _channels_first(values: NDArray[np.generic]) -> NDArray[np.generic]:
    if values.ndim == 3:
        return values[:, None]
    if values.shape[3] in (1, 3, 4):
        return values.transpose(0, 3, 1, 2)
    return values
