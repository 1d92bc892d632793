"""SIGINT and SIGTERM: between shards they ask the driver to stop, elsewhere they end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """What a signal has asked for, and what the next one does."""

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._patient = False

    def listen(self) -> None:
        """Take both signals, again if somebody else has: Ray does when it is imported, and once
        more when it starts. Outside the main thread (a notebook's server, a test) signals are
        left alone, as Python allows no other."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Within: the first signal only sets ``requested``, for work that can be finished."""
        self.listen()
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        impatient = self.requested or not self._patient
        self.requested = True
        self.signal_name = signal.Signals(number).name
        if impatient:
            raise KeyboardInterrupt


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Within: SIGTERM, like SIGINT, raises KeyboardInterrupt, except within ``patience``."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    stop.listen()
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            # None: a handler that was not set from Python cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
