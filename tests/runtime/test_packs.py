"""Packs on Ray Train, on a real local Ray: what dies, what kills, what trains together."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from gradattr.errors import UsageError
from gradattr.manifest.operation import Runtime
from gradattr.plan import Task
from gradattr.runtime.packs import Packs
from gradattr.runtime.ray_cluster import connect
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome, attempt

RUNTIME = Runtime(address="auto", workers=2)
CONTEXT = RunContext("run", "f" * 64, {}, (1, 8, 8), 10, {}, (), {}).to_json()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Ray for the module: two slots; and this module's functions go to it by value."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with connect(Runtime(address="local", workers=2)) as description:
        yield description
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def work(context: RunContext, task: Task) -> Outcome:
    """Stands for a trial: notes that it began, then ends as its payload says."""
    folder = Path(task.payload["folder"])
    with (folder / task.key).open("a") as notes:
        notes.write(f"{os.getpid()} ")
    deed = task.payload.get("deed", "")
    if deed == "die":
        # Not before another trial is under way beside it.
        deadline = time.monotonic() + 60
        while not (folder / task.payload["beside"]).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "long the first time" and len((folder / task.key).read_text().split()) == 1:
        time.sleep(60)
    if deed == "wait":
        time.sleep(task.payload["seconds"])
    extra: dict[str, Any] = {"rows": task.rows, "folder": str(Path.cwd())}
    if task.payload.get("workers", 1) > 1:
        return attempt(task.stage, task.key, lambda: {"ranks": _sum_over_ranks(deed)})
    return Outcome(task.stage, task.key, "failed" if deed == "fail" else "ok", extra=extra)


def _sum_over_ranks(deed: str) -> int:
    import torch
    import torch.distributed as dist

    if deed == "one dies" and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.tensor(10 ** dist.get_rank())
    dist.all_reduce(total)
    return int(total)


def _tasks(folder: Path, **payloads: dict[str, Any]) -> list[Task]:
    return [
        Task("trial", key, 1, {"folder": str(folder), **payload})
        for key, payload in payloads.items()
    ]


def _notes(folder: Path) -> dict[str, int]:
    """How often each trial began."""
    return {path.name: len(path.read_text().split()) for path in sorted(folder.iterdir())}


def _packs(grace: float = 30.0) -> Packs:
    return Packs(CONTEXT, RUNTIME, lambda: True, grace, work)


def _run(
    packs: Packs, tasks: list[Task], width: int = 1, stopped: Callable[[], bool] = lambda: False
) -> dict[str, Outcome]:
    outcomes = list(packs.run(tasks, width, stopped))
    assert len({outcome.key for outcome in outcomes}) == len(outcomes), outcomes
    return {outcome.key: outcome for outcome in outcomes}


def test_a_death_is_charged_to_the_trial_that_died(cluster: str, tmp_path: Path) -> None:
    tasks = _tasks(
        tmp_path,
        poison={"deed": "die", "beside": "slow"},
        slow={"deed": "long the first time"},
        bad={"deed": "fail"},
        **{f"good{number}": {} for number in range(5)},
    )
    first = _run(_packs(), tasks)
    assert {key: outcome.status for key, outcome in first.items()} == {
        "poison": "crashed",
        "slow": "ok",
        "bad": "failed",
        **{f"good{number}": "ok" for number in range(5)},
    }
    assert first["poison"].error == "the worker process died"
    # The one that was under way beside it began again, without being told off for it.
    assert _notes(tmp_path) == dict.fromkeys(first, 1) | {"slow": 2}
    # Workers stay in the driver's folder: a store may be given relative to it.
    assert first["slow"].extra["folder"] == str(Path.cwd())


def test_workers_that_train_together(cluster: str, tmp_path: Path) -> None:
    two = {"workers": 2}
    tasks = _tasks(tmp_path, a=two, b={"deed": "one dies", **two}, c=two)
    outcomes = _run(_packs(), tasks, width=2)
    statuses = {key: outcome.status for key, outcome in outcomes.items()}
    assert statuses == {"a": "ok", "b": "crashed", "c": "ok"}
    # Rank 0 has failed too, for want of its partner; but that is not what happened.
    assert outcomes["b"].error == "the worker process died"
    assert [outcomes[key].extra["ranks"] for key in "ac"] == [11, 11]
    assert _notes(tmp_path) == {"a": 2, "b": 2, "c": 2}


def test_after_a_stop_nothing_is_handed_out(cluster: str, tmp_path: Path) -> None:
    wait = {"deed": "wait", "seconds": 2.0}
    tasks = _tasks(tmp_path, a=wait, b=wait, c=wait, d=wait)
    outcomes = _run(_packs(), tasks, stopped=lambda: any(tmp_path.iterdir()))
    begun = list(_notes(tmp_path))
    assert 1 <= len(begun) <= 2
    assert sorted(outcomes) == begun
    assert all(outcome.status == "ok" for outcome in outcomes.values())


def test_nothing_of_ray_train_stays(cluster: str) -> None:
    """Neither in the home directory, nor processes of packs that have ended."""
    assert not Path("~/ray_results").expanduser().exists()
    deadline = time.monotonic() + 30
    while left := [
        process.name()
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith(("ray::RayTrain", "ray::TrainContr", "ray::Pack"))
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_group_that_never_fits_is_refused(cluster: str) -> None:
    with pytest.raises(UsageError, match=r"3 workers at once, 1 CPU each, 3 CPU in all; .* for 2 "):
        _packs().check(3)
    _packs().check(2)
