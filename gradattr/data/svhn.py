"""SVHN's 'cropped digits' .mat files: X (32, 32, 3, n) unsigned bytes, y (n, 1) with 10 for 0."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from gradattr.data.cache import shared
from gradattr.data.files import Files, changed
from gradattr.data.raw import RawRows, check_labels, row_ids
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import SvhnData


class SvhnReader:
    """Rows in file order; ids are row numbers. A worker keeps the file's arrays in memory."""

    def __init__(self, spec: SvhnData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        url = self.spec.file
        size, digest = self.files.digest(url, self.spec.digest)
        images, labels = self._load(digest)
        names = tuple(self.spec.classes or map(str, range(10)))
        check_labels(labels, len(names), f"{url}: 'y'")
        channels, height, width = images.shape[1:]
        if height * width > self.spec.max_pixels:
            raise DataError(f"{url}: images of {width}x{height}, more than max_pixels")
        image = [channels, height, width]
        file = FileRef(url, size, digest, 0, len(images), {"image": image})
        return DataIndex(
            "svhn",
            len(images),
            (file,),
            len(names),
            names,
            channels,
            (height, width),
            RowKeys(labels),
        )

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        (file,) = shard.files
        self.files.check_unchanged(file.url, file.bytes)
        images, labels = self._load(file.digest)
        part = slice(shard.start, shard.start + shard.rows)
        if len(labels[part]) != shard.rows:
            raise DataError(changed(file.url, "it has fewer rows"))
        yield RawRows(shard.start, row_ids(shard.start, shard.rows), labels[part], images[part])

    def _load(self, digest: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(n, 3, 32, 32) and (n,)."""
        url = self.spec.file

        def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
            return _parse(self.files.read(url), url)

        return shared.get((url, digest), load, lambda both: both[0].nbytes + both[1].nbytes)


def _parse(data: bytes, url: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        stream: Any = io.BytesIO(data)
        content = scipy.io.loadmat(stream, variable_names=["X", "y"])
    except Exception as error:  # scipy raises almost anything on damaged bytes
        raise DataError(
            f"{url}: not a readable .mat file of version 5 ({type(error).__name__}: "
            f"{str(error)[:200]}); truncated, or another format"
        ) from None
    if "X" not in content or "y" not in content:
        present = [name for name in content if not name.startswith("__")]
        raise DataError(f"{url}: expected arrays 'X' and 'y'; there are {present or 'none'}")
    images, labels = content["X"], np.asarray(content["y"]).reshape(-1)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3:
        raise DataError(
            f"{url}: 'X' is {images.dtype} of shape {images.shape}, expected unsigned bytes of "
            "(height, width, 3, n); use the 'cropped digits' files"
        )
    if images.shape[3] != len(labels) or labels.dtype.kind not in "iuf":
        raise DataError(f"{url}: {len(labels)} labels for {images.shape[3]} images")
    numbers = labels.astype(np.int64)
    return images.transpose(3, 2, 0, 1), np.where(numbers == 10, 0, numbers)
