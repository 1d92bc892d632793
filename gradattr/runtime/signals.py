"""SIGINT and SIGTERM ask the driver to stop; a second one does not ask."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set by the first signal."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Within: the first SIGINT or SIGTERM sets ``requested``, the second raises
    KeyboardInterrupt. Outside the main thread (a notebook's server, a test) signals are left
    alone, as Python allows no other."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        stop.signal_name = signal.Signals(number).name

    earlier = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
