"""A head that is away for a moment is waited for; one that stays away ends the run."""

from __future__ import annotations

import socket

import pytest

from gradattr.errors import ShardError
from gradattr.runtime import ray_watch
from gradattr.runtime.ray_watch import RayWatch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ray_watch, "time", clock)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        watch = RayWatch("the head", ("127.0.0.1", port), patience=30)
        clock.now += 5
        assert watch.is_there()
    for _ in range(5):
        clock.now += 5
        assert not watch.is_there()
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        clock.now += 4
        assert watch.is_there()
    clock.now += 29
    assert not watch.is_there()
    clock.now += 5
    with pytest.raises(ShardError, match=rf"the head \(127\.0\.0\.1:{port}\) died"):
        watch.is_there()


def test_without_patience_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ray_watch, "time", clock)
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = RayWatch("the raylet", ("127.0.0.1", server.getsockname()[1]))
        clock.now += 0.1
        assert watch.is_there(at_once=True)
    clock.now += 0.1
    assert watch.is_there(), "asked again although it was asked just now"
    with pytest.raises(ShardError, match="the raylet"):
        watch.is_there(at_once=True)
