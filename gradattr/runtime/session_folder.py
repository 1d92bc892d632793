"""Ray's temporary folder of one driver, and the removal of those whose driver was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "gradattr-ray-"

#: Locked as long as the driver lives; the system lets go of it however the driver ends.
LOCK = "driver.lock"


@contextmanager
def session_folder() -> Iterator[Path]:
    """A new folder for a local Ray, removed at the end; earlier ones that a killed driver left
    behind are removed at the beginning."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / f"{LOCK}.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its name only once it is locked, or another driver might take it for abandoned.
            (folder / f"{LOCK}.new").rename(folder / LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(PREFIX + "*"):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether it is ours, and its driver is gone. What others made is left alone, and so is a
    folder without a lock: its driver is just beginning."""
    if folder.is_symlink():
        return False
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
