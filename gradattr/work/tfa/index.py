"""An index of sketches: which training examples are worth to be scored exactly for a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from gradattr.influence import CountSketch, Sketches, estimated_cosines, estimated_dots
from gradattr.manifest.scores import GradientScore
from gradattr.work.tfa.query_directions import QueryDirections


@dataclass(frozen=True)
class IndexPart:
    """Sketches of n training examples."""

    rows: np.ndarray
    """(n,) int64: their rows in the training data."""
    sketches: Sketches


def index_parts(tables: Iterable[pa.Table], device: torch.device) -> Iterator[IndexPart]:
    """The files of the table ``sketches``, one at a time."""
    for table in tables:
        for batch in table.to_batches():
            values = batch["sketch"].to_numpy_ndarray()
            sketches = Sketches(
                torch.from_numpy(values.copy()).to(device),
                torch.from_numpy(batch["norm"].to_numpy().copy()).to(device),
            )
            yield IndexPart(batch["train_row"].to_numpy(), sketches)


@dataclass
class Ranking:
    """The ``count`` highest or lowest estimates of each of q queries so far."""

    count: int
    highest: bool
    values: Tensor
    """(q, at most count), best first."""
    rows: Tensor
    """(q, at most count): rows of the training data."""

    @classmethod
    def empty(cls, queries: int, count: int, highest: bool, device: torch.device) -> Ranking:
        return cls(
            count,
            highest,
            torch.empty(queries, 0, device=device),
            torch.empty(queries, 0, dtype=torch.int64, device=device),
        )

    def add(self, estimates: Tensor, rows: Tensor) -> None:
        """Estimates (n, q) of the examples ``rows`` (n,), which come in ascending order."""
        values = torch.cat([self.values, estimates.T], 1)
        known = torch.cat([self.rows, rows.expand(estimates.shape[1], -1)], 1)
        # Stable: of equal estimates the earlier rows stay, so files may be cut anywhere.
        order = values.argsort(dim=1, descending=self.highest, stable=True)[:, : self.count]
        self.values, self.rows = values.gather(1, order), known.gather(1, order)


def rank(
    queries: QueryDirections,
    sketch: CountSketch,
    score: GradientScore,
    parts: Iterable[IndexPart],
    count: int,
    device: torch.device,
) -> tuple[Ranking, Ranking]:
    """The examples with the ``count`` highest, and those with the lowest, estimates per query."""
    own = sketch.of_directions(queries.plain)
    estimate = estimated_cosines if score.score == "grad_cos" else estimated_dots
    found = tuple(Ranking.empty(len(queries), count, side, device) for side in (True, False))
    for part in parts:
        estimates = estimate(part.sketches, own)
        rows = torch.from_numpy(part.rows.copy()).to(device)
        for ranking in found:
            ranking.add(estimates, rows)
    return found[0], found[1]
