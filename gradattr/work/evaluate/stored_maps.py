"""Maps of another run, read back for the images of a shard."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from gradattr.attribution.result import Attribution
from gradattr.data.types import Batch, ShardRef
from gradattr.errors import IntegrityError
from gradattr.plan import Task
from gradattr.storage.commit import Commit, read_commit
from gradattr.storage.objects import ObjectStore
from gradattr.storage.parts import read_files
from gradattr.storage.reader import decoded_maps, map_files, read_map_file
from gradattr.storage.shards import FileEntry
from gradattr.work.attribute.loaded import Loaded
from gradattr.work.attribute.rows import Group
from gradattr.work.context import RunContext

#: Files of maps that are kept while batches go through them in order.
_KEPT_FILES = 2

_SCALARS = (
    "score",
    "baseline_score",
    "completeness_gap",
    "baseline_confidence",
    "path_spearman",
)


def stored_maps(context: RunContext, task: Task, store: ObjectStore) -> StoredMaps | None:
    """The maps that ``attributions: run:...`` names, for the images of the task's shard; None if
    the run makes its own. IntegrityError if that run is not the one that was planned with."""
    planned = task.payload.get("attributions")
    if planned is None:
        return None
    commit = read_commit(store, planned["run"])
    if commit.fingerprint != planned["fingerprint"]:
        raise IntegrityError(
            f"attributions: run {commit.run_id} is not the one that was planned with; run the same "
            "command again"
        )
    shard = ShardRef.from_json(task.payload["shard"])
    return StoredMaps(context, store, commit, range(shard.start, shard.start + shard.rows))


@dataclass
class StoredMaps:
    """Maps and their numbers by row and method."""

    context: RunContext
    store: ObjectStore
    commit: Commit
    rows: range
    """Those of the shard."""
    _spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Rows [first, last] that a file of maps has, once it has been read."""
    _open: OrderedDict[str, pa.Table] = field(default_factory=OrderedDict)

    def groups(self, loaded: Loaded, batch: Batch) -> list[Group]:
        """The batch's attributions as that run found them: a group for the methods that it has for
        the same images."""
        logits = _logits(loaded, batch.x)
        numbers = self._numbers
        maps = self._maps(batch.rows)
        by_positions: dict[tuple[int, ...], list[Attribution]] = {}
        for request in loaded.requests:
            mine = [numbers.get((row, request.id)) for row in batch.rows]
            there = [i for i, one in enumerate(mine) if one and one["target_index"] is not None]
            if not there:
                continue
            found = [one for i in there if (one := mine[i])]
            shape = self._shape(maps, request.id)
            stacked = np.stack(
                [maps.get((batch.sample_ids[i], request.id), np.full(shape, np.nan)) for i in there]
            )
            by_positions.setdefault(tuple(there), []).append(
                Attribution(
                    method=request.id,
                    target=request.target,
                    maps=torch.from_numpy(stacked.astype(np.float32)).to(loaded.device),
                    index=torch.tensor([one["target_index"] for one in found]).to(loaded.device),
                    logits=logits[torch.tensor(there, device=logits.device)],
                    evaluations=max(int(one["evaluations"]) for one in found),
                    status=tuple(one["status"] for one in found),
                    score=_column(found, "score"),
                    **{name: _optional(found, name) for name in _SCALARS[1:]},
                )
            )
        return [Group(list(positions), made) for positions, made in by_positions.items()]

    def _shape(self, maps: dict[tuple[str, str], np.ndarray], method: str) -> tuple[int, ...]:
        known = (one.shape for (_, name), one in maps.items() if name == method)
        return next(known, self.context.shape)

    @cached_property
    def _numbers(self) -> dict[tuple[int, str], dict[str, Any]]:
        """The shard's part of that run's table 'attributions', by (row, method): read once, because
        the table is one file of all images."""
        columns = ["row", "method", "target_index", "evaluations", "status", *_SCALARS]
        files = [(self.commit.run_id, f) for f in self.commit.tables["attributions"].files]
        found: dict[tuple[int, str], dict[str, Any]] = {}
        for table in read_files(self.store, files, columns):
            row = table["row"]
            own = pc.and_(pc.greater_equal(row, self.rows.start), pc.less(row, self.rows.stop))
            found |= {(one["row"], one["method"]): one for one in table.filter(own).to_pylist()}
        return found

    def _maps(self, rows: Sequence[int]) -> dict[tuple[str, str], np.ndarray]:
        """Maps (c, h, w) by (sample id, method)."""
        low, high = min(rows), max(rows)
        wanted = pa.array(list(rows), pa.int64())
        found: dict[tuple[str, str], np.ndarray] = {}
        for one in map_files(self.commit):
            first, last = self._spans.get(one.file.key, (low, high))
            near = any(start <= high and low < stop for start, stop in one.row_ranges)
            if last < low or first > high or not near:
                continue
            table = self._read(one.file)
            chosen = table.filter(pc.is_in(table["row"], wanted))
            found |= {(sample, method): map_ for sample, method, map_ in decoded_maps(chosen)}
        return found

    def _read(self, file: FileEntry) -> pa.Table:
        if file.key not in self._open:
            table = read_map_file(self.store, self.commit, file)
            self._open[file.key] = table
            span = pc.min_max(table["row"]).as_py()
            self._spans[file.key] = (span["min"], span["max"])
            while len(self._open) > _KEPT_FILES:
                self._open.popitem(last=False)
        return self._open[file.key]


def _logits(loaded: Loaded, x: Tensor) -> Tensor:
    """(n, classes) at the images of a batch."""
    pieces = torch.split(x, loaded.batch_size)
    return torch.cat([loaded.evaluator.logits(piece.to(loaded.device)) for piece in pieces])


def _column(rows: Sequence[dict[str, Any]], name: str) -> Tensor:
    values = [np.nan if row[name] is None else row[name] for row in rows]
    return torch.tensor(values, dtype=torch.float64)


def _optional(rows: Sequence[dict[str, Any]], name: str) -> Tensor | None:
    """None for a column that the method does not have."""
    return None if all(row[name] is None for row in rows) else _column(rows, name)
