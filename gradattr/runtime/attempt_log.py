"""``log/<attempt>/``: who ran what where and when. For people; never read for correctness."""

from __future__ import annotations

import getpass
import json
import os
import platform
import secrets
import socket
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gradattr.errors import GradattrError
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.work.outcome import Outcome

PACKAGES = ("gradattr", "torch", "torchvision", "ray", "pyarrow", "numpy", "duckdb")

#: Failures are written as they come, up to so many; a run of 10 000 bad shards needs no more.
MAX_FAILURES = 200


class AttemptLog:
    """The log of one attempt at a run. A log that cannot be written is no reason to fail."""

    def __init__(self, store: ObjectStore, run_id: str, attempt: str) -> None:
        self._store = store
        self._paths = RunPaths(run_id)
        self.attempt = attempt
        self._failures = 0
        self._broken = False

    @classmethod
    def start(cls, store: ObjectStore, run_id: str, capabilities: dict[str, Any]) -> AttemptLog:
        now = datetime.now(UTC)
        attempt = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        log = cls(store, run_id, attempt)
        log._write("start.json", {"started": now.isoformat(), "store": capabilities, **_who()})
        return log

    def outcome(self, outcome: Outcome) -> None:
        if outcome.status == "ok" or self._failures >= MAX_FAILURES:
            return
        self._failures += 1
        name = f"failure-{self._failures:03d}.json"
        self._write(name, {"at": datetime.now(UTC).isoformat(), **asdict(outcome)})

    def end(self, error: BaseException | None) -> None:
        self._write(
            "end.json",
            {
                "ended": datetime.now(UTC).isoformat(),
                "error": None if error is None else type(error).__name__,
                "message": None if error is None else str(error),
            },
        )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self._broken:
            return
        try:
            data = json.dumps(content, indent=2, default=str).encode()
            self._store.put(self._paths.log(self.attempt, name), data)
        except (GradattrError, OSError):
            # A store that is gone would make each further note wait for all its time-outs.
            self._broken = True


def _who() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        "host": socket.gethostname(),
        "user": user,
        "pid": os.getpid(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
