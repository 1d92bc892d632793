"""What a driver says while it works: a few plain events that a terminal, a log or a test reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal["plan", "stage", "shard", "retry", "failed", "commit", "complete", "note"]


@dataclass(frozen=True)
class Event:
    """One thing that happened. Counts are of the current stage."""

    kind: EventKind
    message: str
    stage: str = ""
    key: str = ""
    rows_done: int = 0
    rows_total: int = 0
    bad_rows: int = 0
    rows_per_second: float | None = None
    """Over this session's own work; None until there is some."""
    seconds_left: float | None = None


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for those who do not listen."""


@dataclass
class StageProgress:
    """Counts rows of one stage and turns them into events."""

    stage: str
    rows_total: int
    rows_before: int
    """Rows whose shards an earlier session finished."""
    listener: Listener
    rows_done: int = 0
    bad_rows: int = 0
    started: float = field(default_factory=time.monotonic)

    def emit(self, kind: EventKind, message: str, key: str = "") -> None:
        elapsed = time.monotonic() - self.started
        rate = self.rows_done / elapsed if self.rows_done and elapsed > 0 else None
        left = self.rows_total - self.rows_before - self.rows_done
        self.listener(
            Event(
                kind,
                message,
                self.stage,
                key,
                self.rows_before + self.rows_done,
                self.rows_total,
                self.bad_rows,
                rate,
                left / rate if rate else None,
            )
        )

    def finished(self, key: str, rows: int, bad_rows: int) -> None:
        self.rows_done += rows
        self.bad_rows += bad_rows
        self.emit("shard", f"{self.stage} {key}: {rows} rows", key)
