"""``torchvision:<name>``: data sets that torchvision reads, and downloads where it can."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradattr.canonical import digest_bytes, digest_json
from gradattr.data.cache import shared
from gradattr.data.files import Files
from gradattr.data.raw import (
    Fault,
    RawRows,
    check_labels,
    count_classes,
    no_labels,
    row_ids,
    to_pixels,
)
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import TorchvisionData

#: Where 'split' has names of its own: manifest's 'train', 'test' to torchvision's.
_SPLITS = {
    "ImageNet": ("train", "val"),
    "Imagenette": ("train", "val"),
    "Places365": ("train-standard", "val"),
    "Flowers102": ("train", "test"),
}
#: Needed arguments that are no choice of ours.
_DEFAULTS: dict[str, dict[str, Any]] = {"EMNIST": {"split": "balanced"}}


class TorchvisionReader:
    """Rows in torchvision's order; ids are row numbers.

    Data sets that keep all images in one array (MNIST, CIFAR, SVHN, ...) are read as arrays;
    of the others each image is decoded by torchvision and taken from there.
    """

    def __init__(self, spec: TorchvisionData, files: Files) -> None:
        self.spec = spec

    def index(self) -> DataIndex:
        dataset = self._dataset(self.spec.download)
        rows = len(dataset)
        names = tuple(self.spec.classes) if self.spec.classes else _class_names(dataset)
        labels = _all_labels(dataset, rows)
        if labels is not None:
            check_labels(labels, len(names) if names else None, self._where)
        arrays = _arrays(dataset)
        if arrays is not None:
            shape, size, digest = (
                list(arrays.shape[1:]),
                arrays.nbytes,
                digest_bytes(np.ascontiguousarray(arrays).data.cast("B")),
            )
        elif rows:
            size, digest = self._digest_images(dataset, min(rows, self.spec.limit or rows))
            width, height = dataset[0][0].size
            shape = [3, height, width]
        else:
            shape, size, digest = [], 0, ""
        if labels is not None:
            digest = digest_json([digest, digest_bytes(labels.tobytes())])
        file = FileRef(self._where, size, digest, 0, rows, {"image": shape})
        return DataIndex(
            "torchvision",
            rows,
            (file,),
            count_classes(labels, names),
            names,
            shape[0] if shape else None,
            (shape[1], shape[2]) if arrays is not None else None,
            RowKeys(labels),
        )

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        # Only the plan downloads: workers that do it at the same time would tear the files.
        dataset = self._dataset(False)
        stop = shard.start + shard.rows
        if len(dataset) < stop:
            raise DataError(f"{self._where}: {len(dataset)} rows, {stop} were planned")
        labels = _all_labels(dataset, len(dataset))
        arrays = _arrays(dataset)
        for start in range(shard.start, stop, batch_size):
            end = min(start + batch_size, stop)
            ids = row_ids(start, end - start)
            if arrays is not None:
                part = labels[start:end] if labels is not None else no_labels(end - start)
                yield RawRows(start, ids, part, arrays[start:end])
            else:
                yield self._one_by_one(dataset, start, ids)

    def _one_by_one(self, dataset: Any, start: int, ids: list[str]) -> RawRows:
        images: list[bytes | None] = []
        labels = no_labels(len(ids))
        faults: dict[int, Fault] = {}
        for position in range(len(ids)):
            try:
                image, label = dataset[start + position][:2]
                images.append(_lossless(image))
                labels[position] = label if isinstance(label, int) else -1
            except Exception as error:  # whatever torchvision raises, it is this row's
                images.append(None)
                text = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                faults[position] = ("decode_error", text)
        return RawRows(start, ids, labels, images, faults)

    @property
    def _where(self) -> str:
        return f"torchvision:{self.spec.name}:{self.spec.split}"

    def _dataset(self, download: bool) -> Any:
        from torchvision import datasets

        spec = self.spec
        names = [name for name in datasets.__all__ if _is_dataset(getattr(datasets, name))]
        if spec.name not in names:
            lower = {name.lower(): name for name in names}
            near = difflib.get_close_matches(spec.name.lower(), lower, 1)
            hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
            raise DataError(f"torchvision has no data set {spec.name!r}{hint}")
        scheme, separator, rest = spec.root.partition("://")
        if separator and scheme.lower() != "file":
            raise DataError(
                f"{spec.root}: torchvision reads local folders only; use 'gradattr ingest' to "
                "bring the data set to a store"
            )
        root = str(Path(rest if separator else spec.root).absolute())
        key = ("torchvision", spec.name, root, spec.split)

        def load() -> Any:
            return self._open(getattr(datasets, spec.name), root, download)

        return shared.get(key, load, _dataset_bytes)

    def _open(self, factory: Any, root: str, download: bool) -> Any:
        known = inspect.signature(factory).parameters
        arguments: dict[str, Any] = dict(_DEFAULTS.get(self.spec.name, {}))
        if "root" in known:
            arguments["root"] = root
        if "train" in known or "split" in arguments:
            arguments["train"] = self.spec.split == "train"
        elif "split" in known:
            pair = _SPLITS.get(self.spec.name, ("train", "test"))
            arguments["split"] = pair[self.spec.split == "test"]
        if "download" in known:
            arguments["download"] = download
        try:
            return factory(**arguments)
        except Exception as error:  # each data set raises its own
            advice = "" if download else "; put its files there, or set download: true"
            raise DataError(
                f"{self._where}: not readable from {root} ({type(error).__name__}: "
                f"{str(error)[:200]}){advice}"
            ) from None

    def _digest_images(self, dataset: Any, rows: int) -> tuple[int, str]:
        """(bytes, digest) over the decoded images; 'quick': over the number of rows."""
        if self.spec.digest == "quick":
            return 0, digest_json(["quick", self.spec.name, self.spec.split, rows])
        digest, size = hashlib.sha256(), 0
        for row in range(rows):
            try:
                data = np.asarray(dataset[row][0]).tobytes()
            except Exception:  # a row that cannot be read counts as such
                data = b""
            digest.update(len(data).to_bytes(8, "little") + data)
            size += len(data)
        return size, digest.hexdigest()


def _is_dataset(value: Any) -> bool:
    from torchvision.datasets import VisionDataset

    return isinstance(value, type) and issubclass(value, VisionDataset) and value != VisionDataset


def _arrays(dataset: Any) -> NDArray[np.generic] | None:
    """(n, channels, height, width) of a data set that keeps its images in one array."""
    data = getattr(dataset, "data", None)
    if data is None or not hasattr(data, "shape") or len(data.shape) not in (3, 4):
        return None
    array = to_pixels(np.asarray(data), "torchvision")
    if array.ndim == 3:
        return array[:, None]
    return array.transpose(0, 3, 1, 2) if array.shape[3] in (1, 3) else array


def _all_labels(dataset: Any, rows: int) -> NDArray[np.int64] | None:
    for name in ("targets", "labels", "_labels"):
        labels = getattr(dataset, name, None)
        if labels is not None and len(labels) == rows:
            array = np.asarray(labels)
            return array.astype(np.int64) if array.dtype.kind in "iu" and array.ndim == 1 else None
    return None


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    classes = getattr(dataset, "classes", None)
    if not classes:
        return None
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in classes)


def _lossless(image: Any) -> bytes:
    if not isinstance(image, Image.Image):
        raise TypeError(f"the data set gives {type(image).__name__}, expected an image")
    buffer = io.BytesIO()
    mode = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else None
    (mode or image.convert("RGB")).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _dataset_bytes(dataset: Any) -> int:
    data = getattr(dataset, "data", None)
    return int(getattr(data, "nbytes", 1 << 20))
