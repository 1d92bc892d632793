"""Rows that cannot be used, counted and told: every one has its line in the table ``errors``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from gradattr.data.types import Batch, RowError
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter

#: Examples that are kept for the driver's message.
MAX_EXAMPLES = 3


def failed_columns(errors: Sequence[RowError]) -> dict[str, Any]:
    """Columns that tables of rows have for those that failed."""
    return {
        "row": [error.row for error in errors],
        "sample_id": [error.sample_id for error in errors],
        "status": [error.status for error in errors],
        "error": [error.error for error in errors],
    }


class BadRows:
    """Rows that cannot be used, counted and told."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._all: list[RowError] = []
        self.newest: list[RowError] = []

    def sift(self, batch: Batch, classes: int, *, labelled: bool) -> Batch:
        """The batch without rows whose label the model cannot have (nor, if they must be
        ``labelled``, those without a label)."""
        self.newest = list(batch.errors)
        wrong = batch.labels >= classes
        if labelled:
            wrong |= batch.labels < 0
        for at in wrong.nonzero().flatten().tolist():
            label = int(batch.labels[at])
            text = (
                f"label {label}, but the model has classes 0 to {classes - 1}"
                if label >= 0
                else "no label, and the loss needs one"
            )
            self.newest.append(RowError(batch.rows[at], batch.sample_ids[at], "label_error", text))
        self._all += self.newest
        return batch if not bool(wrong.any()) else part(batch, (~wrong).nonzero().flatten())

    def leave_out(self, batch: Batch, wrong: Tensor, status: str, text: str) -> Batch:
        """The batch without the rows that are ``wrong`` (n,), which are told with this status."""
        found = [
            RowError(batch.rows[at], batch.sample_ids[at], status, text)
            for at in wrong.nonzero().flatten().tolist()
        ]
        self.newest += found
        self._all += found
        return part(batch, (~wrong).nonzero().flatten())

    def add(self, errors: Iterable[RowError]) -> None:
        self._all += errors

    def write(self, writer: ShardWriter) -> None:
        """Their rows of the table ``errors``."""
        if self._all:
            columns = failed_columns(self._all) | {"stage": [self._stage] * len(self._all)}
            writer.append("errors", make_table("errors", columns))

    def extra(self) -> dict[str, Any]:
        """Their part of a record's ``extra``."""
        statuses: dict[str, int] = {}
        for error in self._all:
            statuses[error.status] = statuses.get(error.status, 0) + 1
        examples = [f"row {e.row} ({e.sample_id}): {e.status}, {e.error}" for e in self._all]
        return {
            "bad_rows": len({error.row for error in self._all}),
            "statuses": dict(sorted(statuses.items())),
            "examples": examples[:MAX_EXAMPLES],
        }


def part(batch: Batch, keep: Tensor) -> Batch:
    """The rows of a batch at these positions (k,)."""
    places = keep.tolist()
    return Batch(
        x=batch.x[keep],
        labels=batch.labels[keep],
        rows=[batch.rows[i] for i in places],
        sample_ids=[batch.sample_ids[i] for i in places],
        errors=batch.errors,
        masks=None if batch.masks is None else batch.masks[keep],
        signal_on_top=None if batch.signal_on_top is None else batch.signal_on_top[keep],
        patched=None if batch.patched is None else batch.patched[keep],
    )


def labelled(batch: Batch, classes: int) -> Tensor:
    """(n,) bool: whether a row's label is one that the model can have."""
    return (batch.labels >= 0) & (batch.labels < classes)
