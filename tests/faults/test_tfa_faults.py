"""Whole runs of kind tfa that are killed, stopped or short of room: the tables are those of an
undisturbed run, bit for bit (damaged files: test_tfa_damage.py; S3: test_tfa_on_s3.py)."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import Interrupted, StoreError
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from tests.disturbed import (
    STAGES,
    finished,
    forget,
    killed_at,
    records,
    same,
    two_at_once,
    when,
)

Make = Callable[..., Any]

#: (what is about to be written, the how manyeth of it), in the order of the stages.
PLACES = [
    ("run.json", 1),
    ("/shards/train/", 1),
    ("/data/predictions/", 2),
    ("/shards/predict/", 1),
    ("/data/queries/", 1),
    ("/shards/select/", 1),
    ("/data/tensors/", 1),
    ("/shards/curvature/", 2),
    ("/data/sketches/", 2),
    ("/data/tda_extremes/", 3),
    ("/shards/tda/", 2),
    ("/data/tfa_pairs/", 1),
    ("/shards/pair/", 2),
    ("/data/tfa_maps/", 2),
    ("/shards/map/", 1),
    ("/data/tfa_summary/", 1),
    ("/shards/summary/", 1),
    ("_COMMIT.json", 1),
]
SEEDS = (20261122, 7)


def test_a_driver_killed_in_every_stage(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path
) -> None:
    manifest, store = everything(), tmp_path / "store"
    for place, nth in PLACES:
        assert killed_at(place, nth, manifest), place
    done = {stage: len(records(store, stage)) for stage in STAGES}
    assert done == {
        "train": 1,
        "predict": 2,
        "select": 1,
        "curvature": 3,
        "tda": 6,
        "pair": 2,
        "map": 2,
        "summary": 1,
    }
    told: list[str] = []
    result = run(manifest, listener=lambda event: told.append(event.kind))
    assert "shard" not in told
    same(open_run(result.uri), undisturbed_tfa)
    assert verify_run(open_store(str(store)), result.run_id).ok


@pytest.mark.parametrize("seed", SEEDS)
def test_a_driver_killed_at_random_writes(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path, seed: int
) -> None:
    """Again and again in one store, each time some writes later, until it comes to its end."""
    draw, manifest, kills = random.Random(seed), everything(), 0
    while killed_at("/runs/", draw.randint(1, 20), manifest):
        kills += 1
        assert kills < 60
    assert kills >= 4
    (commit,) = (tmp_path / "store").glob("runs/*/_COMMIT.json")
    found = open_run(str(commit.parent))
    same(found, undisturbed_tfa)
    assert verify_run(found.store, found.run_id).ok


def test_a_driver_killed_while_it_looks_up(asks: Any, undisturbed_answer: Run) -> None:
    for place, nth in [("/data/tda_extremes/", 2), ("/shards/lookup/", 1), ("/shards/lookup/", 1)]:
        assert killed_at(place, nth, asks), place
    same(finished(asks), undisturbed_answer)


@pytest.mark.parametrize(("stage", "number"), [("tda", signal.SIGTERM), ("map", signal.SIGINT)])
def test_a_signal_keeps_what_is_done(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path, stage: str, number: int
) -> None:
    stop = when(stage, lambda: os.kill(os.getpid(), number), "shard")
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught:
        run(everything(), listener=stop)
    assert caught.value.exit_code == 130
    assert len(records(tmp_path / "store", stage)) == 1
    forget()
    told: list[str] = []
    result = run(
        everything(),
        listener=lambda event: told.append(event.stage) if event.kind == "shard" else None,
    )
    assert told.count(stage) == {"tda": 5, "map": 1}[stage]
    assert "curvature" not in told
    same(open_run(result.uri), undisturbed_tfa)


def test_two_drivers_at_once_make_one_commit(
    everything: Make, undisturbed_tfa: Run, tmp_path: Path
) -> None:
    two_at_once(everything())
    (commit,) = (tmp_path / "store").glob("runs/*/_COMMIT.json")
    found = open_run(str(commit.parent))
    same(found, undisturbed_tfa)
    assert verify_run(found.store, found.run_id).ok


@pytest.mark.parametrize("room", [15, 45])
def test_a_disk_that_is_full_for_a_while(
    everything: Make,
    undisturbed_tfa: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    left, fsync = iter(range(room)), os.fsync

    def full(handle: int) -> None:
        if next(left, None) is None:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="the disk is full: free space") as caught:
            run(everything())
    assert caught.value.exit_code == 3
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    same(finished(everything()), undisturbed_tfa)
