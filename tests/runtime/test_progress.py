"""What a driver says while it works."""

from __future__ import annotations

import time

import pytest

from gradattr.runtime import progress
from gradattr.runtime.progress import Event, StageProgress


def test_rows_rate_and_time_left() -> None:
    events: list[Event] = []
    stage = StageProgress("attribute", rows_total=100, rows_before=40, listener=events.append)
    stage.started -= 10.0
    stage.finished("00004", rows=20, bad_rows=1)
    (event,) = events
    assert (event.rows_done, event.rows_total, event.bad_rows) == (60, 100, 1)
    # Rows of an earlier session say nothing about this one's speed.
    assert event.rows_per_second == pytest.approx(2.0, rel=0.05)


def test_the_start_of_the_workers_is_no_speed() -> None:
    """A minute before the first of 100 trials does not mean that they take 100 minutes."""
    events: list[Event] = []
    stage = StageProgress("trial", rows_total=101, rows_before=0, listener=events.append)
    stage.started -= 60.0
    stage.finished("00000", rows=1, bad_rows=0)
    assert stage.first is not None
    stage.first = (stage.first[0] - 10.0, 1)
    stage.finished("00001", rows=1, bad_rows=0)
    assert events[0].seconds_left is None
    assert events[1].seconds_left == pytest.approx(99 * 10.0, rel=0.05)


def test_a_long_shard_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.01)
    events: list[Event] = []
    stage = StageProgress("train", rows_total=10, rows_before=0, listener=events.append)
    with stage.beating():
        while len(events) < 3:
            time.sleep(0.01)
    assert {event.kind for event in events} == {"beat"}
    said = len(events)
    time.sleep(0.05)
    assert len(events) == said
