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
    assert event.seconds_left == pytest.approx(20.0, rel=0.05)


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
