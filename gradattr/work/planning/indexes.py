"""Data indexes of one plan."""

from __future__ import annotations

from gradattr.data.registry import index_data
from gradattr.data.types import DataIndex
from gradattr.manifest.data import AnyData
from gradattr.storage.filesystem import S3Options


class Indexes:
    """Data indexes by spec: training, pool and attributed data are often the same files."""

    def __init__(self, options: S3Options | None) -> None:
        self._options = options
        self._known: dict[str, DataIndex] = {}

    def get(self, spec: AnyData) -> DataIndex:
        key = spec.model_dump_json()
        if key not in self._known:
            self._known[key] = index_data(spec, options=self._options)
        return self._known[key]
