"""A whole audit on a real Ray: its trials in packs, the same accuracies bit for bit, also after a
worker was killed in the middle of a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from gradattr.manifest.operation import Runtime
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.runtime.ray_cluster import connect

Make = Callable[..., Any]

TABLES = ("ranks", "trials", "pred_power", "diffroar", "training")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Ray for the module: two slots."""
    with connect(Runtime(address="local", workers=2)) as description:
        yield description


def test_packs_give_what_one_process_gives_although_a_worker_dies(
    cluster: str, audit: Make, tmp_path: Any
) -> None:
    alone = open_run(run(audit(store={"url": str(tmp_path / "inline")})).uri)
    killed: list[int] = []
    retried: list[str] = []

    def kill_one(event: Event) -> None:
        if event.kind == "retry":
            retried.append(event.key)
        if event.kind != "shard" or event.stage != "trial" or killed:
            return
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in process.name() or "RayTrainWorker" in _title(process):
                killed.append(process.pid)
                process.kill()
                return

    manifest = audit(runtime={"address": "auto"})
    packed = open_run(run(manifest, listener=kill_one).uri)
    assert killed, "no worker of Ray Train was found to kill"
    assert len(retried) <= 1
    for name in TABLES:
        assert packed.table(name).equals(alone.table(name)), name


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
