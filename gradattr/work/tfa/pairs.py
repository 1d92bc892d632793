"""The pairs of some queries: what the merge has chosen, and the images that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc
import torch
from torch import Tensor

from gradattr.data.types import Batch
from gradattr.storage.objects import ObjectStore
from gradattr.storage.parts import read_parts, stage_records
from gradattr.work.context import RunContext
from gradattr.work.tfa.layout import PAIR_STAGE, TRAIN_DATA, block_key
from gradattr.work.tfa.query_directions import QueryDirections
from gradattr.work.tfa.query_set import Row, picked

#: Columns that name a pair, in every table of maps.
PAIR_COLUMNS = ("query", "train_row", "train_id", "method", "side", "rank")


def chosen_pairs(context: RunContext, store: ObjectStore, block: int, queries: range) -> list[Row]:
    """Rows of ``tfa_pairs`` of these queries of a block."""
    records = stage_records(
        store, context.run_id, context.fingerprint, PAIR_STAGE, [block_key(block)]
    )
    found: list[Row] = []
    for table in read_parts(store, records, "tfa_pairs"):
        number = table["query"]
        own = pc.and_(pc.greater_equal(number, queries.start), pc.less(number, queries.stop))
        found += table.filter(own).to_pylist()
    return found


@dataclass(frozen=True)
class PairImages:
    """Pairs of a group of queries, and the training images in them."""

    rows: list[Row]
    """p rows of ``tfa_pairs``."""
    queries: QueryDirections
    images: Batch
    """The n training images, each once."""
    x: Tensor
    """(n, c, h, w) on the device."""
    y: Tensor
    places: list[tuple[int, int]]
    """Of each pair the place of its image and of its query."""

    @property
    def of_pairs(self) -> Tensor:
        """(p,): the place of each pair's image."""
        return torch.tensor([image for image, _ in self.places], dtype=torch.int64)

    def first(self, count: int) -> PairImages:
        """The first so many pairs."""
        return replace(self, rows=self.rows[:count], places=self.places[:count])

    def having(self, methods: Sequence[str]) -> list[int]:
        """The pairs that one of these scores has chosen."""
        return [at for at, row in enumerate(self.rows) if row["method"] in methods]


def pair_images(
    context: RunContext, queries: QueryDirections, rows: Sequence[Row], device: torch.device
) -> PairImages:
    """The pairs of these queries with their images, read once each."""
    numbers = {row["query"]: at for at, row in enumerate(queries.rows)}
    own = [row for row in rows if row["query"] in numbers]
    wanted = sorted({row["train_row"] for row in own})
    images = picked(context, context.tfa_manifest.data, TRAIN_DATA, wanted)
    at = {row: place for place, row in enumerate(wanted)}
    places = [(at[row["train_row"]], numbers[row["query"]]) for row in own]
    return PairImages(own, queries, images, images.x.to(device), images.labels.to(device), places)
