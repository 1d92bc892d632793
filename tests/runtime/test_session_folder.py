"""Folders of killed drivers are removed by the next one; others are left alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gradattr.runtime.session_folder import LOCK, PREFIX, session_folder

HOLD = """
from gradattr.runtime.session_folder import session_folder
with session_folder() as folder:
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_is_gone_afterwards(temporary: Path) -> None:
    with session_folder() as folder:
        assert folder.parent == temporary
        (folder / "logs").mkdir()
    assert list(temporary.iterdir()) == []


def test_only_what_a_killed_driver_left_is_removed(temporary: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    beginning = temporary / f"{PREFIX}beginning"
    beginning.mkdir()
    outside = temporary / "outside"
    outside.mkdir()
    (outside / LOCK).touch()
    (temporary / f"{PREFIX}link").symlink_to(outside)
    with session_folder() as folder:
        assert theirs.exists(), "a living driver's folder was removed"
        assert folder != theirs
    other.kill()
    other.communicate()
    with session_folder():
        assert not theirs.exists()
    assert beginning.exists()
    assert (outside / LOCK).exists()
