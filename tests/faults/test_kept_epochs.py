"""Trainings that keep epochs, killed at every write: the kept weights of the resumed training are
those of an undisturbed one, bit for bit (on S3: test_kept_epochs_on_s3.py)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.runtime.driver import run
from tests.small_trainings import (
    WRITES,
    Kept,
    finished,
    only_the_model_is_left,
    trained_model,
)

Make = Callable[..., Any]


def _killed_at(nth: int, before: bool, manifest: Any) -> str:
    """Carry it out in a fork that is killed at its ``nth`` write below models/, just before or
    just after the file has its name. What was being written; '' if it came to its end."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            _kill_me_at(nth, before, sender)
            run(manifest)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(sender)
    with os.fdopen(receiver) as file:
        name = file.read()
    _, status = os.waitpid(child, 0)
    if name:
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, name
    else:
        assert os.waitstatus_to_exitcode(status) == 0
    return name


def _kill_me_at(nth: int, before: bool, sender: int) -> None:
    left = [nth]

    def fragile(give_name: Callable[..., Any]) -> Callable[..., Any]:
        def write(source: Any, target: Any, **options: Any) -> Any:
            left[0] -= "/models/" in str(target)
            last = left[0] == 0 and "/models/" in str(target)
            if not last or not before:
                give_name(source, target, **options)
            if last:
                os.write(sender, Path(target).name.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        return write

    os.link, os.replace = fragile(os.link), fragile(os.replace)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_write(
    training: Make, undisturbed_kept: Kept, tmp_path: Path, before: bool
) -> None:
    killed = []
    while True:
        url = tmp_path / f"store-{len(killed)}"
        manifest = training({"url": str(url)})
        name = _killed_at(len(killed) + 1, before, manifest)
        if not name:
            break
        killed.append(name.partition("-")[0])
        assert finished(manifest) == undisturbed_kept, name
        only_the_model_is_left(manifest)
        assert finished(manifest) == undisturbed_kept, name
    assert killed == WRITES


def test_killed_again_and_again_in_one_store(
    training: Make, undisturbed_kept: Kept, tmp_path: Path
) -> None:
    """Each time a write later than the time before, until it comes to its end."""
    manifest, kills = training(), 0
    while _killed_at(1 + kills % 3, bool(kills % 2), manifest):
        kills += 1
        assert kills < 60
    assert kills >= 3
    assert finished(manifest) == undisturbed_kept
    only_the_model_is_left(manifest)


@pytest.mark.parametrize("damage", ["gone", "cut", "other bytes"])
def test_killed_and_then_a_kept_file_is_damaged(
    training: Make, undisturbed_kept: Kept, tmp_path: Path, damage: str
) -> None:
    manifest = training()
    # Epoch 1 with its checkpoint, that of epoch 2, and epoch 3 with its own.
    assert _killed_at(9, False, manifest).startswith("kept-000004")
    (victim,) = (tmp_path / "store").glob("models/*/kept-000001-*")
    data = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(data[:-1])
    elif damage == "other bytes":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert finished(manifest) == undisturbed_kept
    assert victim.name not in {Path(kept.key).name for kept in trained_model(manifest).kept}
