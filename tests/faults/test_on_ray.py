"""Faults of processes, on a real local Ray: what is killed, what kills, and two drivers at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from gradattr.errors import ShardError
from gradattr.manifest.operation import Runtime
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.runtime.ray_cluster import connect
from gradattr.runtime.session_folder import session_folder
from gradattr.storage.verify import verify_run

Make = Callable[..., Any]
SEED = 20261122
PLANTED = "planted-secret-of-the-environment-4711"


@pytest.fixture(scope="module")
def cluster(fragile: str) -> Iterator[str]:
    """One Ray for the module: two slots, no dashboard, a secret in its environment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
        patched.setenv("PYTHONPATH", _folder(fragile))
        with connect(Runtime(address="local", workers=2)) as description:
            yield description


def _folder(module: str) -> str:
    return str(Path(import_module(module).__file__ or "").parent)


def _model(fragile: str, name: str, **kwargs: Any) -> dict[str, Any]:
    return {"arch": "python", "factory": f"{fragile}:{name}", "kwargs": kwargs, "num_classes": 10}


def _records(store: Path) -> list[str]:
    return sorted(path.stem for path in store.glob("runs/*/shards/attribute/*.json"))


def test_a_shard_that_kills_its_worker_is_given_up(
    cluster: str, make_small: Make, listener: Make, fragile: str, marked_file: Path, tmp_path: Path
) -> None:
    manifest = make_small(
        data={"format": "npz", "file": str(marked_file)},
        model=_model(fragile, "deadly"),
        runtime={"address": "auto", "retries": 1},
    )
    told = listener()
    with pytest.raises(ShardError) as caught:
        run(manifest, listener=told)
    assert caught.value.exit_code == 3
    assert "1 of 4 shards" in str(caught.value)
    expected = "attribute/00001: the worker process died (after 2 attempts)"
    assert expected in str(caught.value)
    assert [event.key for event in told.events if event.kind == "retry"] == ["00001"]
    assert _records(tmp_path / "store") == ["00000", "00002", "00003"]


def _manifest_file(folder: Path, manifest: Any, store: Path) -> Path:
    value = manifest.model_dump(mode="json", exclude_none=True)
    value["store"] = {"url": str(store), "maps": "float32"}
    value["runtime"] = {"address": "local", "workers": 2}
    path = folder / f"{store.name}.yaml"
    path.write_text(json.dumps(value))  # JSON is YAML
    return path


class Driver:
    """``gradattr run`` in a process group of its own, and every process that it starts."""

    def __init__(self, manifest: Path, fragile: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradattr.cli.main", "run", str(manifest)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _folder(fragile), "FRAGILE_SECONDS": "0.1"},
        )
        self.children: list[psutil.Process] = []
        self.output = ""

    def wait_for_records(self, store: Path, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(_records(store)) < count:
            assert self._process.poll() is None, self._process.communicate()[0].decode()
            assert time.monotonic() < deadline, f"{len(_records(store))} of {count} records"
            time.sleep(0.02)
        self.children = psutil.Process(self._process.pid).children(recursive=True)

    def kill(self, name: str = "") -> None:
        """SIGKILL to a child by its name, else to the driver."""
        if not name:
            self._process.kill()
            return
        victims = [child for child in self.children if child.name() == name]
        assert victims, f"no {name} among {[child.name() for child in self.children]}"
        for victim in victims:
            victim.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> int:
        self.output = self._process.communicate(timeout=120)[0].decode()
        return self._process.returncode

    def clean_up(self, grace: float) -> list[str]:
        """End what is still there of what this driver started; its names."""
        _, alive = psutil.wait_procs(self.children, timeout=grace)
        names = [child.name() for child in alive]
        for child in alive:
            child.kill()
        psutil.wait_procs(alive, timeout=10)
        return names


def test_whatever_is_stopped_or_killed_the_run_goes_on(
    make_small: Make, fragile: str, same: Make, tmp_path: Path
) -> None:
    """The same command after SIGTERM, a killed raylet and a killed driver, at random moments."""
    print(f"random moments: seed {SEED}")
    generator = random.Random(SEED)
    store = tmp_path / "storm"
    # 60 shards of one row, slow enough that each attempt is ended long before the last.
    manifest = make_small(model=_model(fragile, "slow"), shard_rows=1)
    path = _manifest_file(tmp_path, manifest, store)
    endings: list[tuple[Callable[[Driver], None], int]] = [
        (lambda driver: driver.terminate(), 130),
        (lambda driver: driver.kill("raylet"), 3),
        (lambda driver: driver.kill(), -signal.SIGKILL),
    ]
    for end, code in endings:
        before = len(_records(store))
        driver = Driver(path, fragile)
        try:
            driver.wait_for_records(store, before + generator.randint(1, 6))
            time.sleep(generator.random() / 4)
            end(driver)
            assert driver.wait() == code, driver.output
        finally:
            left = driver.clean_up(15 if code == 130 else 1)
        if code == 130:
            assert not left, "a driver that was stopped left processes behind"
            assert "the same command goes on" in driver.output
        assert "Traceback" not in driver.output
        assert not list(store.glob("runs/*/_COMMIT.json"))
    # What the killed driver left in the temporary directory goes with the next one's start.
    with session_folder():
        pass
    done = _records(store)
    assert 3 <= len(done) < 60
    # Where tasks run is no part of a run's identity, so the last attempt may go without Ray.
    changes = {"model": _model(fragile, "slow"), "shard_rows": 1}
    changes["store"] = {"url": str(store), "maps": "float32"}
    finished = open_run(run(make_small(**changes)).uri)
    changes["store"] = {"url": str(tmp_path / "undisturbed"), "maps": "float32"}
    same(finished, open_run(run(make_small(**changes)).uri))


def test_two_drivers_on_one_ray_make_one_commit(
    cluster: str, make_small: Make, undisturbed: Run, same: Make, tmp_path: Path
) -> None:
    manifest = make_small(runtime={"address": "auto"})
    start = threading.Barrier(2)
    waiting = [True, True]

    def together(number: int) -> Callable[[Event], None]:
        def listener(event: Event) -> None:
            # Both have found nothing done, and hand out every shard.
            if event.kind == "stage" and waiting[number]:
                waiting[number] = False
                start.wait(60)

        return listener

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(run, manifest, listener=together(number)) for number in range(2)]
        results = [future.result(120) for future in running]
    assert waiting == [False, False]
    assert results[0] == results[1]
    (commit,) = (tmp_path / "store").glob("runs/*/_COMMIT.json")
    opened = open_run(str(commit.parent))
    same(opened, undisturbed)
    assert verify_run(opened.store, opened.run_id).ok


def test_no_secret_in_what_ray_writes(cluster: str) -> None:
    """Neither the store's secret nor Ray's own token, in the logs of everything above."""
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    secrets = [PLANTED, os.environ["RAY_AUTH_TOKEN"]]
    for path in files:
        data = path.read_bytes()
        found = [secret[:12] for secret in secrets if secret.encode() in data]
        assert not found, f"{path} has a secret"
