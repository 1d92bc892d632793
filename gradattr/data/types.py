"""The nouns of data: an index of files and rows, shards of it, and batches of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradattr.canonical import digest_json


@dataclass(frozen=True)
class FileRef:
    """One file (or the part of the embedded data) that rows come from."""

    url: str
    bytes: int
    digest: str
    first_row: int
    """Number, in the whole data set, of the file's first row."""
    rows: int
    extra: dict[str, Any] = field(default_factory=dict)
    """What the format's reader needs besides (label of a folder image, offsets, ...). JSON."""


@dataclass(frozen=True)
class ShardRef:
    """A contiguous range of rows and the files that hold it: all that a task needs to read."""

    index: int
    start: int
    rows: int
    files: tuple[FileRef, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ShardRef:
        files = tuple(FileRef(**file) for file in value["files"])
        return cls(value["index"], value["start"], value["rows"], files)


@dataclass(frozen=True)
class RowKeys:
    """Labels and sample ids of every row, as a format reads them anyway when it is indexed."""

    labels: NDArray[np.int64] | None
    """(n,), -1 where a row has none; None: they are not known before the images are read."""
    read_ids: Callable[[], list[str]] | None = None
    """None: the sample ids are the row numbers."""


@dataclass(frozen=True)
class DataIndex:
    """A data set without its pixels."""

    format: str
    rows: int
    files: tuple[FileRef, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    channels: int | None
    """Channels of a decoded image under color 'auto'; None if it is not known without reading."""
    size: tuple[int, int] | None
    """(height, width) where every image has the same, known without decoding."""
    keys: RowKeys | None = field(default=None, compare=False, repr=False)
    """While the data set is looked at; no part of what is kept of it."""

    def to_json(self) -> dict[str, Any]:
        value = asdict(replace(self, keys=None))
        del value["keys"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DataIndex:
        return cls(
            **{
                **value,
                "files": tuple(FileRef(**file) for file in value["files"]),
                "class_names": value["class_names"] and tuple(value["class_names"]),
                "size": value["size"] and tuple(value["size"]),
            }
        )

    def digest(self) -> str:
        """Content digest: the list of files with sizes, digests and rows, and the patch that is
        painted into their images; not their location."""
        patch = self.files[0].extra.get("patch") if self.files else None
        return digest_json(
            {
                "format": self.format,
                "rows": self.rows,
                "files": [[f.bytes, f.digest, f.rows] for f in self.files],
                "classes": self.class_names,
            }
            | ({} if patch is None else {"patch": patch})
        )


@dataclass(frozen=True)
class RowError:
    """A row that cannot be used: what the tables show in place of its result."""

    row: int
    sample_id: str
    status: str
    """'decode_error', 'too_large', 'label_error' or 'shape_error'."""
    error: str


@dataclass
class Batch:
    """Pre-processed rows, in row order, and the rows among them that failed."""

    x: torch.Tensor
    """(n, channels, height, width), float32, on the CPU."""
    labels: torch.Tensor
    """(n,) int64, -1 where there is no label."""
    rows: list[int]
    sample_ids: list[str]
    errors: list[RowError]
    masks: torch.Tensor | None = None
    """(n, height, width) bool, True in the marked region: where there can be no signal, or the
    patch that the manifest asks for; None: the data has no masks."""
    signal_on_top: torch.Tensor | None = None
    """(n,) bool, of BlockMNIST: whether the upper block holds the signal. None: other data."""
    patched: torch.Tensor | None = None
    """(n,) bool, of data with 'patch': whether this image has the patch. None: other data."""

    def __len__(self) -> int:
        return len(self.rows)
