"""Data indexes of one plan."""

from __future__ import annotations

from dataclasses import replace

from gradattr.data.raw import row_ids
from gradattr.data.registry import index_data, index_rows
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

    def sample_ids(self, spec: AnyData) -> list[str] | None:
        """The sample ids of all rows; None if they are not known before the images are read."""
        index = index_rows(spec, options=self._options)
        self._known[spec.model_dump_json()] = replace(index, keys=None)
        if index.keys is None:
            return None
        read = index.keys.read_ids
        return row_ids(0, index.rows) if read is None else read()[: index.rows]
