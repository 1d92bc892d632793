"""Noticing in time that one of Ray's own processes is gone: left alone, Ray would end the driver's
process, after a minute or at the next task, with an exit code that means something else."""

from __future__ import annotations

import socket
import time

from gradattr.errors import ShardError

#: Seconds a head may be away, to be restarted by its cluster. Ray's own limit is 60.
HEAD_SECONDS = 45.0
_EVERY = 1.0
_CONNECT_SECONDS = 2.0


class RayWatch:
    """Asks now and then whether a process of Ray still accepts connections."""

    def __init__(self, what: str, address: tuple[str, int], patience: float = 0.0) -> None:
        self._what = what
        self._address = address
        self._patience = patience
        self._asked = self._seen = time.monotonic()
        self._there = True

    def is_there(self, *, at_once: bool = False) -> bool:
        """Whether it answered last; ``at_once``: whether it answers now. ShardError once it has
        been away for longer than the patience."""
        now = time.monotonic()
        if not at_once and now - self._asked < _EVERY:
            return self._there
        self._asked = now
        self._there = self._answers()
        if self._there:
            self._seen = now
        elif now - self._seen > self._patience:
            host, port = self._address
            raise ShardError(
                f"{self._what} ({host}:{port}) died or cannot be reached any more; finished "
                "shards are kept, and the same command goes on from there"
            )
        return self._there

    def _answers(self) -> bool:
        try:
            with socket.create_connection(self._address, _CONNECT_SECONDS):
                return True
        except OSError:
            return False
