"""Whole runs of kind tfa on a real Ray: the tables of one process, bit for bit, also after workers
were killed in the middle of stages."""

from __future__ import annotations

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
    """Kills a worker as the first shard of each of these stages is done; the others are then under
    way."""

    def __init__(self, *stages: str) -> None:
        self.waiting = list(stages)
        self.killed: list[int] = []
        self.shards: list[tuple[str, str]] = []

    def __call__(self, event: Event) -> None:
        if event.kind != "shard":
            return
        self.shards.append((event.stage, event.key))
        if event.stage not in self.waiting:
            return
        for process in psutil.Process().children(recursive=True):
            if _is_worker(process):
                self.waiting.remove(event.stage)
                self.killed.append(process.pid)
                process.kill()
                return


def _is_worker(process: psutil.Process) -> bool:
    try:
        title = " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return False
    return "ray::gradattr" in title or "gradattr:" in title


def test_ray_gives_what_one_process_gives_although_workers_die(
    cluster: str, everything: Make, undisturbed_tfa: Any, undisturbed_answer: Any
) -> None:
    killer = Killer("curvature", "tda")
    found = open_run(run(everything(runtime=ON_RAY), listener=killer).uri)
    assert killer.waiting == [] and len(killer.killed) == 2, "no worker was found to kill"
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
