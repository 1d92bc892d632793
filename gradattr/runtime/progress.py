"""What a driver says while it works: a few plain events that a terminal, a log or a test reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

EventKind = Literal[
    "plan", "stage", "shard", "beat", "retry", "failed", "commit", "complete", "note"
]


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
    """None until a second shard is done: how long the first took tells of the workers' start."""


#: Seconds without news after which a driver says that it is still there.
BEAT_SECONDS = 30.0

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
    first: tuple[float, int] | None = None
    """When this session's first shard was done, and its rows."""

    def emit(self, kind: EventKind, message: str, key: str = "") -> None:
        elapsed = self.seconds
        rate = self.rows_done / elapsed if self.rows_done and elapsed > 0 else None
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
                self._seconds_left(),
            )
        )

    def _seconds_left(self) -> float | None:
        """At the speed since the first shard was done, when every worker had started."""
        left = self.rows_total - self.rows_before - self.rows_done
        if self.first is None or self.rows_done == self.first[1]:
            return None
        return left * (time.monotonic() - self.first[0]) / (self.rows_done - self.first[1])

    def finished(self, key: str, rows: int, bad_rows: int) -> None:
        self.rows_done += rows
        self.bad_rows += bad_rows
        self.first = self.first or (time.monotonic(), rows)
        self.emit("shard", f"{self.stage} {key}: {rows} rows", key)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Within: an event every BEAT_SECONDS, because one shard (a training, say) can take hours
        and silence looks like a hang."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                self.emit("beat", f"{self.stage}: working, {self.seconds:.0f} s so far")

        thread = threading.Thread(target=beat, name="gradattr-beat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @property
    def seconds(self) -> float:
        """Since the stage began in this session."""
        return time.monotonic() - self.started
