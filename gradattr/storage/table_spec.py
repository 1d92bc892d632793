"""What a table is: its columns, with types and descriptions, and what identifies a row."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

Column = tuple[str, pa.DataType, bool, str]
"""Name, type, nullable, description."""

ROW: Column = ("row", pa.int64(), False, "number of the row in the whole data set, from 0")
SAMPLE: Column = (
    "sample_id",
    pa.string(),
    False,
    "stable name of the sample, whatever the sharding",
)
METHOD: Column = ("method", pa.string(), False, "the method's id in the manifest")
STATUS: Column = (
    "status",
    pa.string(),
    False,
    "'ok', or why there is no result: decode_error, too_large, label_error, shape_error, "
    "non_finite, ...",
)
ERROR: Column = ("error", pa.string(), True, "what went wrong, for a person to read; null if ok")


@dataclass(frozen=True)
class TableSpec:
    """What is known of a table besides its columns."""

    name: str
    version: int
    description: str
    key: tuple[str, ...]
    """Columns that together occur once in a run; empty: no such rule."""
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        return self.schema_with(())

    def schema_with(self, extra: tuple[Column, ...]) -> pa.Schema:
        """The schema with columns that depend on the manifest."""
        fields = [
            pa.field(name, kind, nullable, metadata={"description": text})
            for name, kind, nullable, text in (*self.columns, *extra)
        ]
        metadata = {
            "gradattr.table": self.name,
            "gradattr.schema_version": str(self.version),
            "gradattr.description": self.description,
        }
        return pa.schema(fields, metadata)
