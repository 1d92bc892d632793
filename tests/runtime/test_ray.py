"""Whole runs on a real local Ray: the same results, also when workers and drivers are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from gradattr.errors import UsageError
from gradattr.manifest.operation import Runtime
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.runtime.ray_cluster import check_resources, connect

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Ray for the module: two slots, no dashboard, a token of its own."""
    with connect(Runtime(address="local", workers=2)) as description:
        yield description


def _same(one: Any, two: Any, table_of: Make) -> None:
    for name in ("predictions", "attributions", "maps", "errors"):
        assert table_of(one, name).equals(table_of(two, name)), name


@pytest.fixture
def inline(make_manifest: Make, tmp_path: Path) -> Any:
    """The undisturbed run, without Ray."""
    store = {"url": str(tmp_path / "inline"), "maps": "float32"}
    return open_run(run(make_manifest(store=store)).uri)


def test_ray_gives_what_one_process_gives(
    cluster: str, make_manifest: Make, inline: Any, table_of: Make
) -> None:
    result = run(make_manifest(runtime={"address": "auto", "cpus_per_task": 1}))
    _same(open_run(result.uri), inline, table_of)


def test_a_killed_worker_costs_nothing(
    cluster: str, make_manifest: Make, inline: Any, table_of: Make
) -> None:
    killed: list[int] = []

    def kill_after_the_first_shard(event: Event) -> None:
        if event.kind != "shard" or killed:
            return
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith("ray::gradattr") or "gradattr:" in _title(process):
                killed.append(process.pid)
                process.kill()
                return

    methods = make_manifest().methods
    slow = [m.model_dump(exclude_none=True) for m in methods]
    result = run(
        make_manifest(runtime={"address": "auto"}, methods=slow, shard_rows=5),
        listener=kill_after_the_first_shard,
    )
    assert killed, "no worker was found to kill"
    opened = open_run(result.uri)
    for name in ("predictions", "attributions", "maps"):
        assert table_of(opened, name).num_rows == table_of(inline, name).num_rows
    rows = opened.sql("SELECT count(*) AS n, count(DISTINCT (row, method)) AS d FROM maps")
    (counted,) = rows.to_pylist()
    assert counted["n"] == counted["d"] == 90 * len(opened.methods)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _manifest_file(folder: Path, manifest: Any, store: Path, **changes: Any) -> Path:
    value = manifest.model_dump(mode="json", exclude_none=True)
    value["store"] = {"url": str(store), "maps": "float32"}
    value |= changes
    path = folder / f"{store.name}.yaml"
    path.write_text(json.dumps(value))  # JSON is YAML
    return path


def _start(path: Path) -> subprocess.Popen[bytes]:
    # Its own session, so that one signal reaches the driver alone and the clean-up all of it.
    return subprocess.Popen(
        [sys.executable, "-m", "gradattr.cli.main", "run", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_killed_driver_resumes(
    make_manifest: Make, inline: Any, table_of: Make, tmp_path: Path
) -> None:
    store = tmp_path / "killed"
    path = _manifest_file(tmp_path, make_manifest(), store, runtime={"address": "inline"})
    driver = _start(path)
    deadline = time.monotonic() + 120
    while not list(store.glob("runs/*/shards/attribute/*.json")):
        assert driver.poll() is None, driver.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert not list(store.glob("runs/*/_COMMIT.json"))
    second = _start(path)
    output = second.communicate(timeout=180)[0].decode()
    assert second.returncode == 0, output
    (folder,) = store.glob("runs/*")
    _same(open_run(str(folder)), inline, table_of)


def test_two_drivers_make_one_commit(
    make_manifest: Make, inline: Any, table_of: Make, tmp_path: Path
) -> None:
    store = tmp_path / "both"
    path = _manifest_file(tmp_path, make_manifest(), store, runtime={"address": "inline"})
    drivers = [_start(path), _start(path)]
    outputs = [driver.communicate(timeout=240)[0].decode() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    (commit,) = store.glob("runs/*/_COMMIT.json")
    _same(open_run(str(commit.parent)), inline, table_of)


def test_ctrl_c_on_ray_keeps_finished_shards(cluster: str, make_manifest: Make) -> None:
    from gradattr.errors import Interrupted

    manifest = make_manifest(runtime={"address": "auto"}, shard_rows=5)

    def stop(event: Event) -> None:
        if event.kind == "shard":
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    first = True

    def once(event: Event) -> None:
        nonlocal first
        if event.kind == "shard" and first:
            first = False
            stop(event)

    with pytest.raises(Interrupted, match="SIGINT"):
        run(manifest, listener=once)
    events: list[Event] = []
    assert run(manifest, listener=events.append).rows == 90
    assert 0 < len([event for event in events if event.kind == "shard"]) < 18


def test_resources_that_no_node_has_are_named(cluster: str) -> None:
    with pytest.raises(UsageError, match=r"it needs 1000 CPU; the nodes have 2 CPU"):
        check_resources(Runtime(cpus_per_task=1000))
    with pytest.raises(UsageError, match="4 GPU"):
        check_resources(Runtime(gpus_per_task=4))
    check_resources(Runtime(cpus_per_task=2))


def test_the_local_ray_has_a_token(cluster: str) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert ray.is_initialized()


def test_nobody_else_can_look_into_its_folder(cluster: str) -> None:
    folder = Path(ray._private.worker._global_node.get_session_dir_path()).parent.parent
    assert folder.name.startswith("gradattr-ray-")
    assert folder.stat().st_mode & 0o077 == 0
