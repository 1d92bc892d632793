"""A disk that is full for a while: exit 3, no partial file, and the run goes on afterwards."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import StoreError
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run

Make = Callable[..., Any]


@pytest.mark.parametrize("writes", [0, 1, 3, 8, 13])
def test_a_run_survives_a_full_disk(
    make_small: Make,
    listener: Make,
    undisturbed: Run,
    same: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """The disk has room for so many files; the next one is cut off in the middle."""
    room = iter(range(writes))
    fsync = os.fsync

    def full(handle: int) -> None:
        if next(room, None) is None:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    first = listener()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="the disk is full: free space") as caught:
            run(make_small(), listener=first)
    assert caught.value.exit_code == 3
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    assert not list((tmp_path / "store").glob("runs/*/_COMMIT.json"))
    second = listener()
    result = run(make_small(), listener=second)
    assert sorted(first.shards + second.shards) == ["00000", "00001", "00002", "00003"]
    same(open_run(result.uri), undisturbed)
