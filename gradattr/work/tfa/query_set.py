"""The queries of a run, and images of chosen rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradattr.data.registry import pick_shards, read_shard
from gradattr.data.types import Batch, DataIndex
from gradattr.errors import DataError
from gradattr.manifest.data import AnyData
from gradattr.storage.objects import open_store
from gradattr.storage.reader import read_stage
from gradattr.storage.run_json import read_run
from gradattr.work.context import RunContext
from gradattr.work.tfa.layout import QUERY_DATA, SELECT_STAGE
from gradattr.work.tfa.loaded import images_at_once

Row = dict[str, Any]


@dataclass(frozen=True)
class QuerySet:
    """The queries of a run."""

    rows: list[Row]
    """Rows of the table ``queries``, by number."""

    def within(self, numbers: range) -> list[Row]:
        """Those of these numbers that there are."""
        return self.rows[numbers.start : numbers.stop]


_cache: dict[str, QuerySet] = {}


def query_set(context: RunContext) -> QuerySet:
    """The queries; read once in a process."""
    if context.fingerprint not in _cache:
        _cache.clear()
        store = open_store(context.manifest.store)
        parts = read_stage(store, read_run(store, context.run_id), SELECT_STAGE, "queries")
        rows = [row for _, table in parts for row in table.to_pylist()]
        _cache[context.fingerprint] = QuerySet(rows)
    return _cache[context.fingerprint]


def query_images(context: RunContext, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Images (q, c, h, w) and labels (q,) of rows of the table ``queries``, on the CPU: the true
    label, or the predicted one where the target asks for it."""
    batch = picked(
        context,
        context.tfa_manifest.queries.data,
        QUERY_DATA,
        [row["query_row"] for row in rows],
    )
    name = "predicted" if context.tfa_manifest.queries.target.endswith("_pred") else "label"
    labels = [row[name] for row in rows]
    return batch.x, torch.tensor(labels, dtype=torch.int64)


def picked(context: RunContext, data: AnyData, name: str, rows: Sequence[int]) -> Batch:
    """These rows of a data set of the context, in this order (a row may stand there twice).

    DataError if one of them cannot be read, although it could be when it was chosen.
    """
    index = DataIndex.from_json(context.indexes[name])
    places: dict[int, int] = {}
    images: list[Tensor] = []
    labels: list[Tensor] = []
    ids: list[str] = []
    masks: list[Tensor] = []
    for shard in pick_shards(index, rows):
        for batch in read_shard(
            data,
            shard,
            context.preprocess,
            batch_size=images_at_once(context),
            options=context.data_options,
        ):
            if batch.errors:
                error = batch.errors[0]
                raise DataError(
                    f"row {error.row} ({error.sample_id}) could be read before: {error.status}, "
                    f"{error.error}; has the data changed?"
                )
            for at, row in enumerate(batch.rows):
                places[row] = len(images)
                images.append(batch.x[at])
                labels.append(batch.labels[at])
                ids.append(batch.sample_ids[at])
                if batch.masks is not None:
                    masks.append(batch.masks[at])
    order = [places[row] for row in rows]
    if not order:
        return Batch(torch.empty(0, *context.shape), torch.empty(0).long(), [], [], [])
    return Batch(
        x=torch.stack([images[at] for at in order]),
        labels=torch.stack([labels[at] for at in order]),
        rows=list(rows),
        sample_ids=[ids[at] for at in order],
        errors=[],
        masks=torch.stack([masks[at] for at in order]) if masks else None,
    )
