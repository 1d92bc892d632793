"""What a worker keeps between shards: decompressed arrays and row groups, within a bound."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

#: Bytes that one process keeps. An entry larger than this is kept until the next one comes.
CACHE_BYTES = 512 << 20


class BoundedCache:
    """Least recently used values go first; the newest stays whatever its size."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: Hashable, load: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value kept under ``key``, or that of ``load()``, which is then kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                kept: T = self._entries[key][0]
                return kept
            value = load()
            self._put(key, value, size(value))
            return value

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _put(self, key: Hashable, value: Any, size: int) -> None:
        self._entries[key] = (value, size)
        self.bytes += size
        while self.bytes > self.limit and len(self._entries) > 1:
            _, (_, dropped) = self._entries.popitem(last=False)
            self.bytes -= dropped


#: The process's own. Keys begin with a file's URL and digest, so changed data is another entry.
shared = BoundedCache()
