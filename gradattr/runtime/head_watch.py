"""Noticing in time that Ray's head is gone: left alone, Ray would end the driver's process after
a minute, with an exit code that means something else."""

from __future__ import annotations

import socket
import time

from gradattr.errors import ShardError

#: Seconds a head may be away, to be restarted by its cluster. Ray's own limit is 60.
PATIENCE = 45.0
_EVERY = 2.0
_CONNECT_SECONDS = 2.0


class HeadWatch:
    """Asks now and then whether the head still accepts connections."""

    def __init__(self, address: str, patience: float = PATIENCE) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._patience = patience
        self._asked = self._seen = time.monotonic()
        self._there = True

    def is_there(self) -> bool:
        """Whether it answered last. ShardError once it has been away for too long."""
        now = time.monotonic()
        if now - self._asked < _EVERY:
            return self._there
        self._asked = now
        try:
            with socket.create_connection(self._address, _CONNECT_SECONDS):
                self._seen, self._there = now, True
        except OSError:
            self._there = False
        if now - self._seen > self._patience:
            raise ShardError(
                f"Ray's head at {self._address[0]}:{self._address[1]} has not answered for "
                f"{self._patience:.0f} s; finished shards are kept, and the same command goes on "
                "from there"
            )
        return self._there
