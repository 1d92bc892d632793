"""Whole runs of kind tfa on a real Ray: the tables of one process, bit for bit, also after workers
were killed in the middle of stages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from gradattr.errors import ShardError
from gradattr.manifest.operation import Runtime
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.runtime.ray_cluster import connect
from gradattr.storage.verify import verify_run
from tests.disturbed import LOOKUP, same

Make = Callable[..., Any]
ON_RAY = {"address": "auto", "cpus_per_task": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Ray for the module: two slots."""
    with connect(Runtime(address="local", workers=2)) as description:
        yield description


class Killer:
    """Kills a worker in the middle of a task of each of these stages."""

    def __init__(self, *stages: str) -> None:
        self.stages = stages
        self.killed: list[str] = []
        self.shards: list[tuple[str, str]] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "shard":
            self.shards.append((event.stage, event.key))
        if event.kind == "stage" and event.stage in self.stages:
            threading.Thread(target=self._kill, args=(event.stage,), daemon=True).start()

    def _kill(self, stage: str) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            for process in psutil.Process().children(recursive=True):
                if _at_work(process, stage):
                    process.kill()
                    self.killed.append(stage)
                    return


def _at_work(process: psutil.Process, stage: str) -> bool:
    try:
        title = " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return False
    return f"gradattr:{stage}" in title


def test_ray_gives_what_one_process_gives_although_workers_die(
    cluster: str, everything: Make, undisturbed_tfa: Any, undisturbed_answer: Any
) -> None:
    killer = Killer("tda", "map")
    found = open_run(run(everything(runtime=ON_RAY), listener=killer).uri)
    assert killer.killed == ["tda", "map"], "no worker was found to kill"
    assert len(killer.shards) == len(set(killer.shards)), "a shard was done twice"
    same(found, undisturbed_tfa)
    assert verify_run(found.store, found.run_id).ok
    manifest = everything(**LOOKUP, index_of=f"run:{found.run_id}", runtime=ON_RAY)
    same(open_run(run(manifest).uri), undisturbed_answer)


def test_a_stage_that_fails_is_told_from_afar(
    cluster: str, everything: Make, tmp_path: Path
) -> None:
    """A task's message comes through as it is, without a traceback."""
    train = {"epochs": 3, "lr": 0.05, "batch_size": 32, "keep_epochs": [3], "stop_below": 99.0}
    model = {"arch": "mlp", "hidden": [12], "train": train}
    with pytest.raises(ShardError) as caught:
        run(everything(model=model, runtime=ON_RAY))
    assert "'tracin' needs the weights after epochs of the training" in str(caught.value)
    assert "Traceback" not in str(caught.value)
