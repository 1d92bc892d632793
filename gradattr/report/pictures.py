"""The images of a run, read again from the data sets that it names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from gradattr.data.registry import index_data, pick_shards, read_shard
from gradattr.data.types import DataIndex
from gradattr.manifest.data import AnyData, Preprocess
from gradattr.report.results import Run
from gradattr.storage.filesystem import S3Options


@dataclass(frozen=True)
class Picture:
    """An image as the model sees it, but not normalised."""

    pixels: np.ndarray
    """(height, width) grey or (height, width, 3), float32 in [0, 1]."""
    mask: np.ndarray | None = None
    """(height, width) bool, the marked region; None: the data has no masks."""


class Pictures:
    """Images of one of a run's data sets, by row number."""

    def __init__(self, run: Run, data: dict[str, Any]) -> None:
        """``data``: as the run's manifest has it."""
        spec: AnyData = TypeAdapter(AnyData).validate_python(data)
        # 'quick' looks at names and sizes: a picture need not hash the whole data set again.
        self._data = spec.model_copy(update={"digest": "quick"})
        store = run.store.spec
        self._options = S3Options.from_store(store) if store.url.startswith("s3://") else None
        preprocess = Preprocess.model_validate(run.inputs["preprocess"])
        self._plain = preprocess.model_copy(update={"mean": None, "std": None})
        self._shape = tuple(run.inputs["shape"])
        self._index: DataIndex | None = None

    def read(self, rows: Iterable[int]) -> dict[int, Picture]:
        """The pictures of some rows. One that cannot be read is white."""
        if self._index is None:
            self._index = index_data(self._data, options=self._options)
        blank = np.ones(self._shape, np.float32)
        found = {row: Picture(_as_drawn(blank)) for row in rows}
        for shard in pick_shards(self._index, found):
            for batch in read_shard(
                self._data, shard, self._plain, batch_size=64, options=self._options
            ):
                for at, row in enumerate(batch.rows):
                    mask = None if batch.masks is None else batch.masks[at].numpy()
                    found[row] = Picture(_as_drawn(batch.x[at].numpy()), mask)
        return found


def _as_drawn(image: np.ndarray) -> np.ndarray:
    """From (channels, height, width); of channels that are no colours, their mean."""
    image = np.clip(image, 0, 1)
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def class_name(run: Run, index: int | None, longest: int = 16) -> str:
    """A class as a person calls it; '?' for none."""
    if index is None:
        return "?"
    names = run.inputs.get("class_names") or []
    name = names[index] if index < len(names) else str(index)
    return name if len(name) <= longest else name[: longest - 1] + "…"
