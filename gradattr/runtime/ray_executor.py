"""Tasks on Ray: one call per shard, a bounded number in flight, outcomes as they come. Trials, and
trainings by several workers, go in packs (packs.py)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from gradattr.errors import ShardError
from gradattr.manifest.operation import Runtime
from gradattr.plan import Task
from gradattr.runtime.executor import Executor, Stopped
from gradattr.runtime.packs import Packs
from gradattr.runtime.ray_cluster import check_resources, connect
from gradattr.runtime.ray_watch import HEAD_SECONDS, RayWatch
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome
from gradattr.work.perform import perform
from gradattr.work.resources import set_threads

#: Calls handed to Ray per slot: enough that a worker never waits, few enough to stop quickly.
IN_FLIGHT_PER_SLOT = 2

#: Seconds that running shards get to finish after Ctrl-C or SIGTERM.
GRACE_SECONDS = 30.0

#: Stages whose tasks are many and alike, and are pulled by workers of Ray Train.
PACKED_STAGES = frozenset({"trial"})


@ray.remote(max_retries=0)
def run_task(context: dict[str, Any], task: Task, threads: int) -> Outcome:
    """One shard on a worker. Crashes are counted and retried by the driver, not by Ray, because
    Ray's own retries of out-of-memory kills have no end."""
    # A worker that is reused keeps the thread count of its last lease.
    set_threads(threads)
    return perform(RunContext.from_json(context), task)


class RayExecutor:
    """Hands tasks to a connected Ray."""

    def __init__(self, context: RunContext, runtime: Runtime, description: str) -> None:
        self._runtime = runtime
        self._description = description
        self._context = ray.put(context.to_json())
        self._threads = max(1, int(runtime.cpus_per_task))
        self._head, self._raylet = _watches(runtime)
        self._slots = 1
        self._packs = Packs(context.to_json(), runtime, self._head_is_there, GRACE_SECONDS)

    def describe(self) -> str:
        return self._description

    def check(self, tasks: Sequence[Task]) -> None:
        self._packs.check(max(map(_width, tasks), default=1))

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Outcome]:
        alone = [task for task in tasks if _width(task) == 0]
        yield from self._run_alone(alone, stopped)
        for width in sorted({_width(task) for task in tasks} - {0}):
            together = [task for task in tasks if _width(task) == width]
            yield from self._packs.run(together, width, stopped)

    def _run_alone(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Outcome]:
        waiting = deque(tasks)
        running: dict[Any, Task] = {}
        try:
            while (waiting and not stopped()) or running:
                limit = self._limit()
                while waiting and len(running) < limit and not stopped():
                    task = waiting.popleft()
                    running[self._submit(task)] = task
                # The time-out lets a stop be noticed while every shard is long.
                done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
                for reference in done:
                    yield self._collect(reference, running.pop(reference))
                if stopped():
                    yield from self._drain(running)
                    return
        finally:
            for reference in running:
                # Not by force: Ray has aborted the driver where that met the end of the call.
                ray.cancel(reference)

    def _drain(self, running: dict[Any, Task]) -> Iterator[Outcome]:
        # Ray cannot say which calls have begun, and cancelling one that has would throw away a
        # shard that is nearly done; so all get the grace period, and what is left is ended.
        deadline = time.monotonic() + GRACE_SECONDS
        while running and time.monotonic() < deadline:
            done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            for reference in done:
                task = running.pop(reference)
                try:
                    yield self._collect(reference, task)
                except ShardError:
                    # The signal has reached Ray's own processes too: there is nothing to wait for.
                    return

    def _limit(self) -> int:
        # Asked each time, because clusters grow and shrink; but not of a head that is away,
        # because that call would wait until Ray ends the process.
        if self._head_is_there():
            self._slots = self._count_slots()
        if self._runtime.workers != "auto" and self._runtime.workers < self._slots:
            return self._runtime.workers
        return IN_FLIGHT_PER_SLOT * self._slots

    def _head_is_there(self) -> bool:
        """ShardError if the head has been away for too long, or the raylet is gone."""
        if self._raylet is not None:
            self._raylet.is_there()
        return self._head is None or self._head.is_there()

    def _count_slots(self) -> int:
        have = ray.cluster_resources()
        slots = int(have.get("CPU", 0) / self._runtime.cpus_per_task)
        if self._runtime.gpus_per_task:
            slots = min(slots, int(have.get("GPU", 0) / self._runtime.gpus_per_task))
        return max(1, slots)

    def _submit(self, task: Task) -> Any:
        return run_task.options(
            name=f"gradattr:{task.stage}",
            num_cpus=self._runtime.cpus_per_task,
            num_gpus=self._runtime.gpus_per_task,
            memory=self._runtime.task_memory,
        ).remote(self._context, task, self._threads)

    def _collect(self, reference: Any, task: Task) -> Outcome:
        try:
            return ray.get(reference)
        except ray.exceptions.OutOfMemoryError:
            text = "Ray ended the worker because the node ran out of memory"
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
            text = "the worker process died"
        except ray.exceptions.RayError as error:
            text = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
        if self._raylet is not None:
            self._raylet.is_there(at_once=True)
        return Outcome(task.stage, task.key, "crashed", error=text)


def _width(task: Task) -> int:
    """Workers of the pack that a task is for; 0 for a task that needs none."""
    workers = int(task.payload.get("workers", 1))
    return workers if workers > 1 or task.stage in PACKED_STAGES else 0


def _watches(runtime: Runtime) -> tuple[RayWatch | None, RayWatch | None]:
    """Of the cluster's head and of this machine's raylet; None behind ray://, where neither can be
    seen and the client is told when its connection is gone."""
    if runtime.address.startswith("ray://"):
        return None, None
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    head = RayWatch("Ray's head", (host.strip("[]"), int(port)), HEAD_SECONDS)
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    address = own["NodeManagerAddress"], own["NodeManagerPort"]
    return head, RayWatch("the raylet of the driver's machine", address)


@contextmanager
def ray_executor(context: RunContext, known: str = "") -> Iterator[Executor]:
    """Connect to the manifest's Ray, check that a task fits, and hand out an executor. ``known``:
    what a Ray is called that is connected to already."""
    runtime = context.manifest.runtime
    with connect(runtime) as found:
        description = known or found
        check_resources(runtime)
        try:
            yield RayExecutor(context, runtime, description)
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise ShardError(
                f"the connection to {description} was lost ({type(error).__name__}); finished "
                "shards are kept, and the same command goes on from there"
            ) from error
