"""What a pack on Ray Train costs: once, and per trial.

    python tests/bench/bench_packs.py            # about three minutes
    python tests/bench/bench_packs.py --long 4   # fewer trials of 10 s

Trials that sleep, so that all CPU time of Ray's processes and of the driver is overhead. CPU
seconds are those of every process that Ray started, sampled, less what an idle Ray takes meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from gradattr.manifest.operation import Runtime
from gradattr.plan import Task
from gradattr.runtime.ray_cluster import connect
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome

WORKERS = 2
CONTEXT = RunContext("run", "f" * 64, {}, (1, 8, 8), 10, {}, (), {}).to_json()
TRIAL_SECONDS = 10.0
SHARE = 0.05


class CpuMeter:
    """CPU seconds of this process and all that it has started, ended ones included."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            self.read()

    def read(self) -> float:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue
        return sum(self._seen.values())

    @contextmanager
    def running(self) -> Iterator[CpuMeter]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


@dataclass(frozen=True)
class Cost:
    """Of one run of trials in one pack."""

    wall: float
    cpu: float
    """Without what an idle Ray takes."""
    working: float
    """Seconds from the first trial's begin to the last one's end."""


def sleep(context: RunContext, task: Task) -> Outcome:
    """A trial that costs nothing itself."""
    begin = time.time()
    time.sleep(task.payload["seconds"])
    return Outcome(task.stage, task.key, "ok", extra={"begin": begin, "end": time.time()})


def measure(count: int, seconds: float, meter: CpuMeter, idle: float) -> Cost:
    from gradattr.runtime.packs import Packs

    packs = Packs(CONTEXT, Runtime(address="auto"), lambda: True, 30.0, sleep)
    tasks = [Task("trial", f"{n:04d}", 1, {"seconds": seconds}) for n in range(count)]
    cpu, wall = meter.read(), time.monotonic()
    outcomes = list(packs.run(tasks, 1, lambda: False))
    assert [outcome.status for outcome in outcomes] == ["ok"] * count
    wall = time.monotonic() - wall
    working = max(o.extra["end"] for o in outcomes) - min(o.extra["begin"] for o in outcomes)
    time.sleep(2)  # What ends with the pack still ends.
    return Cost(wall, meter.read() - cpu - idle * (wall + 2), working)


def main(few: int, many: int, long: int) -> list[str]:
    """Rows of the results table."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with connect(Runtime(address="local", workers=WORKERS)), CpuMeter().running() as meter:
        time.sleep(5)
        before = meter.read()
        time.sleep(10)
        idle = (meter.read() - before) / 10
        measure(1, 0.0, meter, idle)  # The first pack starts what a cluster needs only once.
        some, more = (measure(count, 0.0, meter, idle) for count in (few, many))
        slow = measure(long, TRIAL_SECONDS, meter, idle)
    each_wall = (more.working - some.working) * WORKERS / (many - few)
    each_cpu = (more.cpu - some.cpu) / (many - few)
    late = slow.working * WORKERS / long / TRIAL_SECONDS - 1
    cpu = (slow.cpu - some.cpu) / long
    # A pack's start, shared by the trials of each of its workers.
    start = slow.wall - slow.working
    enough = start / (TRIAL_SECONDS * (SHARE - late)) if late < SHARE else float("inf")
    return [
        "| what | wall | CPU |",
        "|---|---|---|",
        f"| a pack of {WORKERS} workers, {few} trials of 0 s | {some.wall:.1f} s | "
        f"{some.cpu:.1f} s |",
        f"| each further trial ({many} against {few}) | {1e3 * each_wall:.1f} ms of its worker | "
        f"{1e3 * each_cpu:.1f} ms |",
        f"| overhead of each of {long} trials of {TRIAL_SECONDS:.0f} s | **{100 * late:.2f} %** "
        f"(target under {100 * SHARE:.0f} %) | {100 * cpu / TRIAL_SECONDS:.2f} % |",
        f"| with the pack's start ({start:.1f} s) shared out | under {100 * SHARE:.0f} % from "
        f"{enough:.0f} trials of {TRIAL_SECONDS:.0f} s per worker on | |",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=16)
    parser.add_argument("--many", type=int, default=128)
    parser.add_argument("--long", type=int, default=10)
    options = parser.parse_args()
    print("\n".join(main(options.few, options.many, options.long)))
