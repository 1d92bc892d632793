"""The embedded data set: scikit-learn's 1 797 handwritten digits, 8x8, 17 grey levels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradattr.canonical import digest_bytes
from gradattr.data.cache import shared
from gradattr.data.files import Files
from gradattr.data.raw import RawRows, check_labels, count_classes
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.manifest.data import DigitsData

#: The pixels' white.
_LEVELS = np.float32(16)


class DigitsReader:
    """Rows in scikit-learn's order. The sample id is the row number in all 1 797, so an image
    has the same id in 'all' as in its split."""

    def __init__(self, spec: DigitsData, files: Files) -> None:
        self.spec = spec

    def index(self) -> DataIndex:
        images, labels, numbers = self._load()
        names = tuple(self.spec.classes or map(str, range(10)))
        check_labels(labels, len(names), "digits")
        digest = digest_bytes(images.tobytes() + labels.tobytes())
        file = FileRef(
            f"digits:{self.spec.split}",
            images.nbytes + labels.nbytes,
            digest,
            0,
            len(images),
            {"image": [1, 8, 8]},
        )
        classes = count_classes(labels, names)
        keys = RowKeys(labels, lambda: _ids(numbers))
        return DataIndex("digits", len(images), (file,), classes, names, 1, (8, 8), keys)

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        images, labels, numbers = self._load()
        part = slice(shard.start, shard.start + shard.rows)
        yield RawRows(shard.start, _ids(numbers[part]), labels[part], images[part])

    def _load(self) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """(n, 1, 8, 8) in [0, 1], (n,) labels, (n,) numbers in all 1 797."""

        def load() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            from sklearn.datasets import load_digits

            bunch = load_digits()
            pixels = bunch.images.astype(np.float32) / _LEVELS
            return pixels[:, None], bunch.target.astype(np.int64)

        images, labels = shared.get("digits", load, lambda both: both[0].nbytes + both[1].nbytes)
        numbers = np.arange(len(images))
        if self.spec.split == "train":
            numbers = numbers[numbers % 5 != 0]
        elif self.spec.split == "test":
            numbers = numbers[numbers % 5 == 0]
        return images[numbers], labels[numbers], numbers


def _ids(numbers: NDArray[np.int64]) -> list[str]:
    return [f"{number:08d}" for number in numbers]
