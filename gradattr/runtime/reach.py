"""Whether anything listens at a cluster's address: known in seconds; Ray tries for minutes."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from gradattr.errors import UsageError

#: Seconds to wait for the port to answer.
REACH_SECONDS = 10.0


def check_reachable(address: str) -> None:
    """Raise UsageError if ``host:port`` or ``ray://host:port`` does not answer. Addresses without
    a port ('auto') are left to Ray."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        return
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"runtime.address {address}: nothing answers there ({error.strerror or error}). Is the "
            "cluster up, and is the port right? 'host:6379' is the head's own, "
            "'ray://host:10001' the one for clients elsewhere"
        ) from None
