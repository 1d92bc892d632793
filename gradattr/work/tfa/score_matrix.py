"""The scores of one task: a piece of the matrix training examples x queries, and what is kept of
it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from gradattr.data.types import Batch
from gradattr.storage.schemas import make_table, table_schema

#: Rows of a table that are made at once: bounds memory.
_ROWS_AT_ONCE = 2**20


class ScoreMatrix:
    """Scores by method, filled batch by batch, group of queries by group of queries."""

    def __init__(self, queries: Sequence[int]) -> None:
        self.queries = np.asarray(queries, np.int32)
        """Numbers of the queries: the columns."""
        self.undefined = 0
        self._rows: list[int] = []
        self._ids: list[str] = []
        self._labels: list[int] = []
        self._values: dict[str, list[list[np.ndarray]]] = {}

    def add(self, batch: Batch, values: Mapping[str, np.ndarray], group: int) -> None:
        """Scores (n, q) by method of a batch for the queries of one group; each group sees the same
        rows in the same order."""
        if group == 0:
            self._rows += batch.rows
            self._ids += batch.sample_ids
            self._labels += batch.labels.tolist()
        if len(batch):
            for method, found in values.items():
                groups = self._values.setdefault(method, [])
                if len(groups) <= group:
                    groups.append([])
                groups[group].append(found)

    def not_finite(self) -> list[tuple[int, str]]:
        """(row, sample id) of examples with a NaN or an infinity among their scores: they are left
        out of everything else."""
        return [(self._rows[at], self._ids[at]) for at in np.flatnonzero(~self._good())]

    def scores(self, above: float | None) -> Iterator[pa.Table]:
        """Rows of ``tda_scores`` of at least this magnitude, query by query; None: nothing."""
        if above is None:
            return
        rows = np.asarray(self._rows, np.int64)
        for method, values in self._matrices().items():
            values = values.T
            # NaN is not at least anything, so rows that are not finite need no rule here ...
            kept = np.abs(values) >= above
            # ... but infinity is.
            kept &= self._good()
            step = max(1, _ROWS_AT_ONCE // max(1, len(rows)))
            for first in range(0, len(values), step):
                at, places = np.nonzero(kept[first : first + step])
                columns = {
                    "query": self.queries[first + at],
                    "train_row": rows[places],
                    "method": pa.repeat(method, len(places)),
                    "score": values[first : first + step][at, places],
                }
                if len(places):
                    yield make_table("tda_scores", columns, table_schema("tda_scores"))

    def extremes(self, count: int) -> Iterator[pa.Table]:
        """Rows of ``tda_extremes``: the ``count`` highest and lowest scores of each query."""
        good = np.flatnonzero(self._good())
        rows = np.asarray(self._rows, np.int64)[good]
        labels = np.asarray(self._labels, np.int32)[good]
        for method, values in self._matrices().items():
            columns = values[good].T
            step = max(1, _ROWS_AT_ONCE // (2 * count))
            for first in range(0, len(columns), step):
                part = columns[first : first + step]
                order = extreme_places(part, count)
                at = np.repeat(np.arange(len(part)), order.shape[1])
                places = order.ravel()
                table = {
                    "query": self.queries[first + at],
                    "train_row": rows[places],
                    "train_id": [self._ids[good[place]] for place in places],
                    "train_label": labels[places],
                    "method": pa.repeat(method, len(places)),
                    "score": part[at, places],
                }
                if len(places):
                    yield make_table("tda_extremes", table, table_schema("tda_extremes"))

    def _matrices(self) -> dict[str, np.ndarray]:
        """Method -> (n, q) float32."""
        return {
            method: np.concatenate([np.concatenate(group) for group in groups], axis=1)
            for method, groups in self._values.items()
        }

    def _good(self) -> np.ndarray:
        good = np.ones(len(self._rows), bool)
        for values in self._matrices().values():
            good &= np.isfinite(values).all(axis=1)
        return good


def extreme_places(values: np.ndarray, count: int) -> np.ndarray:
    """Columns of the ``count`` highest and ``count`` lowest of each row of values (q, n), each
    once: (q, at most 2 count), highest first. Of equal values the earlier column is the higher
    one's side and the lower one's: who merges ranks decides by row number."""
    highest = np.argsort(-values, axis=1, kind="stable")
    if 2 * count >= values.shape[1]:
        return highest
    lowest = np.argsort(values, axis=1, kind="stable")[:, :count]
    return np.concatenate([highest[:, :count], lowest], axis=1)
