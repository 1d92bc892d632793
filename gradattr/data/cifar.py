"""CIFAR-10's own files: the binary version, and the Python version without running its pickle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradattr.data.cache import shared
from gradattr.data.cifar_pickle import read_python_batch
from gradattr.data.files import Files
from gradattr.data.raw import RawRows, check_labels, row_ids
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import CifarData

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS


class CifarReader:
    """Rows in the order of the files in the manifest; ids are row numbers."""

    def __init__(self, spec: CifarData, files: Files) -> None:
        self.spec = spec
        self.files = files

    def index(self) -> DataIndex:
        names = tuple(self.spec.classes or CLASSES)
        refs: list[FileRef] = []
        found: list[NDArray[np.int64]] = []
        row = 0
        for url in self.files.expand(self.spec.files, (".bin",)):
            size, digest = self.files.digest(url, self.spec.digest)
            kind = self._kind(url, size)
            _, labels = self._load(url, digest, kind)
            check_labels(labels, len(names), url)
            extra = {"image": [3, 32, 32], "kind": kind}
            refs.append(FileRef(url, size, digest, row, len(labels), extra))
            found.append(labels)
            row += len(labels)
        keys = RowKeys(np.concatenate(found))
        return DataIndex("cifar10", row, tuple(refs), len(names), names, 3, (32, 32), keys)

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        for ref in shard.files:
            self.files.check_unchanged(ref.url, ref.bytes)
            begin = max(shard.start - ref.first_row, 0)
            end = min(shard.start + shard.rows - ref.first_row, ref.rows)
            if ref.extra["kind"] == "binary":
                data = self.files.read(ref.url, begin * _RECORD, end * _RECORD)
                images, labels = _records(data)
            else:
                images, labels = self._load(ref.url, ref.digest, "python")
                images, labels = images[begin:end], labels[begin:end]
            first = ref.first_row + begin
            yield RawRows(first, row_ids(first, len(labels)), labels, images)

    def _kind(self, url: str, size: int) -> str:
        if size == 0:
            raise DataError(f"{url}: empty, expected CIFAR-10 records of {_RECORD} bytes")
        # A binary file begins with a label below 10; a pickle of protocol 2 or more with 0x80.
        first = self.files.read(url, 0, 1)
        if first == b"\x80":
            return "python"
        if size % _RECORD:
            hint = "; that is CIFAR-100's record" if size % (_RECORD + 1) == 0 else ""
            raise DataError(
                f"{url}: {size} bytes is no multiple of {_RECORD} (a label and 3x32x32 pixels)"
                f"{hint}; truncated, or not CIFAR-10's binary version"
            )
        return "binary"

    def _load(
        self, url: str, digest: str, kind: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All images (n, 3, 32, 32) and labels (n,) of a file."""

        def load() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
            data = self.files.read(url)
            return read_python_batch(data, url) if kind == "python" else _records(data)

        return shared.get((url, digest), load, lambda both: both[0].nbytes + both[1].nbytes)


def _records(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
