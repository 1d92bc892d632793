"""What a summary needs of a run."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from gradattr.storage.commit import Commit


class Summarised(Protocol):
    """A committed run, as ``report.results.Run`` is one."""

    run_id: str
    commit: Commit

    @property
    def uri(self) -> str: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def inputs(self) -> dict[str, Any]: ...
    @property
    def rows(self) -> int: ...
    @property
    def methods(self) -> list[str]: ...
    @property
    def map_methods(self) -> list[str]: ...
    @property
    def tables(self) -> list[str]: ...
    def sql(self, text: str) -> pa.Table: ...
    def table(self, name: str) -> pa.Table: ...
