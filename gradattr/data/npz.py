"""NumPy .npz and .npy files. Never with pickled objects."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gradattr.data.cache import shared
from gradattr.data.files import Files
from gradattr.data.raw import (
    RawRows,
    check_labels,
    count_classes,
    no_labels,
    row_ids,
    to_pixels,
)
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import NpzData

_ZIP = b"PK\x03\x04"
_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class ArrayHeader:
    """What an array's header says; ``offset`` of its first value in the file, None if it is
    compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int | None

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class NpzReader:
    """Rows in the array's order; ids are row numbers."""

    def __init__(self, spec: NpzData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        spec = self.spec
        size, digest = self.files.digest(spec.file, spec.digest)
        header = self._header(spec.images)
        image = self._image_shape(header)
        rows = header.shape[0]
        to_pixels(np.empty(0, header.dtype), f"{spec.file}: array {spec.images!r}")
        names = tuple(spec.classes) if spec.classes else None
        labels = self._labels(digest)
        if labels is not None:
            if len(labels) != rows:
                raise DataError(f"{spec.file}: {len(labels)} labels for {rows} images")
            check_labels(labels, len(names) if names else None, f"{spec.file}: {spec.labels!r}")
        if spec.masks is not None:
            self._mask_header(spec.masks, rows, image)
        file = FileRef(spec.file, size, digest, 0, rows, {"image": list(image)})
        return DataIndex(
            "npz",
            rows,
            (file,),
            count_classes(labels, names),
            names,
            image[0],
            (image[1], image[2]),
            RowKeys(no_labels(rows) if labels is None else labels),
        )

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        (file,) = shard.files
        self.files.check_unchanged(file.url, file.bytes)
        labels = self._labels(file.digest)
        header = self._header(self.spec.images)
        # Pieces, so that of an array on disk only a part is in memory at once.
        step = max(batch_size, (16 << 20) // max(1, header.row_bytes))
        for start in range(shard.start, shard.start + shard.rows, step):
            stop = min(start + step, shard.start + shard.rows)
            pixels = self._rows(self.spec.images, header, file.digest, start, stop)
            images = self._nchw(to_pixels(pixels, file.url))
            part = labels[start:stop] if labels is not None else no_labels(stop - start)
            masks = self._masks(file, start, stop)
            yield RawRows(start, row_ids(start, stop - start), part, images, masks=masks)

    def _masks(self, file: FileRef, start: int, stop: int) -> NDArray[np.bool_] | None:
        name = self.spec.masks
        if name is None:
            return None
        channels, height, width = file.extra["image"]
        header = self._mask_header(name, None, (channels, height, width))
        return self._rows(name, header, file.digest, start, stop) != 0

    def _mask_header(self, name: str, rows: int | None, image: tuple[int, int, int]) -> ArrayHeader:
        header = self._header(name)
        count = header.shape[0] if rows is None and header.shape else rows
        if header.shape != (count, *image[1:]) or header.dtype.kind not in "biuf":
            raise DataError(
                f"{self.spec.file}: masks {name!r} are {header.dtype} of shape {header.shape}; "
                f"expected booleans or numbers of shape ({count}, {image[1]}, {image[2]}), as the "
                "images"
            )
        return header

    def _rows(
        self, name: str, header: ArrayHeader, digest: str, start: int, stop: int
    ) -> NDArray[np.generic]:
        if header.offset is None or header.fortran:
            return self._array(name, digest)[start:stop]
        begin = header.offset + start * header.row_bytes
        data = self.files.read(self.spec.file, begin, begin + (stop - start) * header.row_bytes)
        return np.frombuffer(data, header.dtype).reshape(stop - start, *header.shape[1:])

    def _labels(self, digest: str) -> NDArray[np.int64] | None:
        if self.spec.labels is None or self._is_npy():
            return None
        array = self._array(self.spec.labels, digest)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1 or array.dtype.kind not in "iub":
            raise DataError(
                f"{self.spec.file}: {self.spec.labels!r} is {array.dtype} of shape {array.shape}, "
                "expected n integers; set labels to another array's name, or to null"
            )
        return array.astype(np.int64)

    def _array(self, name: str, digest: str) -> NDArray[np.generic]:
        def load() -> NDArray[np.generic]:
            self._header(name)
            with self._member(name) as (stream, _), _numpy_errors(self.spec.file, name):
                array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
                return array

        return shared.get((self.spec.file, digest, name), load, lambda array: array.nbytes)

    def _header(self, name: str) -> ArrayHeader:
        with self._member(name) as (stream, place), _numpy_errors(self.spec.file, name):
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            else:
                raise ValueError(f"format version {version}, expected (1, 0) or (2, 0)")
            length = stream.tell()
        if dtype.hasobject:
            raise DataError(
                f"{self.spec.file}: {name!r} holds pickled objects; they are never loaded. "
                "Save plain numbers"
            )
        size, offset = place
        expected = length + math.prod(shape) * dtype.itemsize
        if size != expected:
            raise DataError(
                f"{self.spec.file}: {name!r} of shape {shape} needs {expected} bytes, {size} are "
                "there; truncated or damaged"
            )
        return ArrayHeader(shape, dtype, fortran, None if offset is None else offset + length)

    def _is_npy(self) -> bool:
        with self.files.open(self.spec.file) as file:
            return file.read(6) == _NPY

    @contextmanager
    def _member(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, int | None]]]:
        """A stream at the array's first byte, and (its bytes, its offset in the file or None)."""
        spec = self.spec
        with self.files.open(spec.file) as file:
            start = file.read(6)
            file.seek(0)
            if start == _NPY:
                yield file, (self.files.info(spec.file)[0], 0)
                return
            if start[:4] != _ZIP:
                raise DataError(f"{spec.file}: neither .npz nor .npy (begins with {start.hex()})")
            try:
                archive = zipfile.ZipFile(file)
            except zipfile.BadZipFile as error:
                raise DataError(f"{spec.file}: truncated or damaged ({error})") from None
            with archive:
                entry = _entry(archive, name, spec.file)
                offset = _stored_offset(file, entry)
                with archive.open(entry) as stream:
                    yield stream, (entry.file_size, offset)

    def _image_shape(self, header: ArrayHeader) -> tuple[int, int, int]:
        shape = header.shape
        if len(shape) not in (3, 4) or 0 in shape[1:]:
            raise DataError(
                f"{self.spec.file}: {self.spec.images!r} has shape {shape}; expected (n, h, w), "
                "(n, h, w, c) or (n, c, h, w)"
            )
        if len(shape) == 3:
            channels, height, width = 1, *shape[1:]
        elif self.spec.layout == "nhwc":
            height, width, channels = shape[1:]
        else:
            channels, height, width = shape[1:]
        if height * width > self.spec.max_pixels:
            raise DataError(
                f"{self.spec.file}: images of {width}x{height} pixels, more than max_pixels = "
                f"{self.spec.max_pixels}"
            )
        return channels, height, width

    def _nchw(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if array.ndim == 3:
            return array[:, None]
        return array.transpose(0, 3, 1, 2) if self.spec.layout == "nhwc" else array


def _entry(archive: zipfile.ZipFile, name: str, url: str) -> zipfile.ZipInfo:
    members = [info.filename for info in archive.infolist()]
    for candidate in (f"{name}.npy", name):
        if candidate in members:
            return archive.getinfo(candidate)
    arrays = ", ".join(repr(member.removesuffix(".npy")) for member in members[:20])
    raise DataError(
        f"{url}: no array {name!r}; there are {arrays or 'none'}. Set 'images' and 'labels' "
        "(null for no labels)"
    )


def _stored_offset(file: IO[bytes], entry: zipfile.ZipInfo) -> int | None:
    """Where an uncompressed member's bytes begin in the archive."""
    if entry.compress_type != zipfile.ZIP_STORED:
        return None
    at = file.tell()
    file.seek(entry.header_offset + 26)
    lengths = file.read(4)
    file.seek(at)
    name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    return entry.header_offset + 30 + name + extra


@contextmanager
def _numpy_errors(url: str, name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{url}: array {name!r} cannot be read: {error}") from None
