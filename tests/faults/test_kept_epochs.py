"""Trainings that keep epochs, killed at every write: the kept weights of the resumed training are
those of an undisturbed one, bit for bit (on S3: test_kept_epochs_on_s3.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.disturbed import killed_at
from tests.small_trainings import (
    WRITES,
    Kept,
    finished,
    only_the_model_is_left,
    trained_model,
)

Make = Callable[..., Any]


def _killed_once(
    training: Make, undisturbed_kept: Kept, folder: Path, nth: int, before: bool
) -> str:
    """Killed at one write in a new store, and carried on; what was being written."""
    manifest = training({"url": str(folder / f"store-{nth}")})
    name = killed_at("/models/", nth, manifest, before=before)
    if name:
        assert finished(manifest) == undisturbed_kept, name
        only_the_model_is_left(manifest)
        assert finished(manifest) == undisturbed_kept, name
    return name.partition("-")[0]


def test_killed_before_every_write(training: Make, undisturbed_kept: Kept, tmp_path: Path) -> None:
    killed: list[str] = []
    while name := _killed_once(training, undisturbed_kept, tmp_path, len(killed) + 1, True):
        killed.append(name)
    assert killed == WRITES


@pytest.mark.parametrize("nth", [1, 2, 5, 8, 12, 13])
def test_killed_after_a_write(
    training: Make, undisturbed_kept: Kept, tmp_path: Path, nth: int
) -> None:
    """The first and second of all, checkpoints that make older ones superfluous, and the last."""
    assert _killed_once(training, undisturbed_kept, tmp_path, nth, False) == WRITES[nth - 1]


def test_killed_again_and_again_in_one_store(
    training: Make, undisturbed_kept: Kept, tmp_path: Path
) -> None:
    """Each time a write later than the time before, until it comes to its end."""
    manifest, kills = training(), 0
    while killed_at("/models/", 1 + kills % 3, manifest, before=bool(kills % 2)):
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
    assert killed_at("/models/", 9, manifest, before=False).startswith("kept-000004")
    (victim,) = (tmp_path / "store").glob("models/*/kept-000001-*")
    data = victim.read_bytes()
    victim.unlink()
    if damage == "cut":
        victim.write_bytes(data[:-1])
    elif damage == "other bytes":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert finished(manifest) == undisturbed_kept
    assert victim.name not in {Path(kept.key).name for kept in trained_model(manifest).kept}
