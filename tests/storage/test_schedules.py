"""The law of the whole protocol, under random schedules.

Two drivers work on one run, their attempts' values differ, and any of them may crash between two
requests or lose a reply; a store without create-if-absent may also see late duplicate PUTs.
Whatever happened: running the command once more commits, and the commit shows every planned row
exactly once, every byte verified, nothing of two attempts mixed.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradattr.errors import GradattrError, StoreError
from gradattr.manifest.operation import Store
from gradattr.storage.backend import Created, LostReply, ObjectInfo
from gradattr.storage.commit import commit_run, missing_shards, read_commit
from gradattr.storage.gc import collect
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.reader import read_table
from gradattr.storage.run_json import create_run
from gradattr.storage.sealed import seal
from gradattr.storage.verify import verify_run

from .conftest import METHODS, SmallRun

#: What the schedule can do to the next request of a driver.
GO, CRASH_BEFORE, CRASH_AFTER, LOSE, DUPLICATE = "go", "crash", "crash after", "lose", "duplicate"
_FAULTS = (LOSE, DUPLICATE, CRASH_BEFORE, CRASH_AFTER)


def random_steps(seed: int, length: int, rate: float) -> list[tuple[int, str]]:
    """``length`` requests: whose turn it is, and with probability ``rate`` what goes wrong."""
    draw = random.Random(seed)
    fates = [draw.choice(_FAULTS) if draw.random() < rate else GO for _ in range(length)]
    return [(draw.randrange(2), fate) for fate in fates]


class Crash(BaseException):
    """The process is gone."""


class Memory:
    """Objects in a dictionary; each request is one atomic step."""

    def __init__(self, conditional: bool) -> None:
        self.conditional = conditional
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.puts: list[tuple[str, bytes]] = []
        self.clock = itertools.count(1.0)
        self.lock = threading.Lock()

    def write(self, key: str, data: bytes) -> None:
        self.puts.append((key, data))
        self.objects[key] = (data, next(self.clock))

    def replay(self, number: int) -> None:
        """A PUT of long ago arrives once more; a conditional one is refused by the store."""
        if self.puts and not self.conditional:
            key, data = self.puts[number % len(self.puts)]
            self.objects[key] = (data, next(self.clock))


class Actor:
    """One driver's view of the store: a backend whose requests wait for their turn."""

    kind = "memory"

    def __init__(self, memory: Memory, schedule: Schedule | None = None, name: int = 0) -> None:
        self.memory, self.schedule, self.name = memory, schedule, name
        self.conditional: bool | None = memory.conditional

    def _step(self, act: Any, write: bool = False) -> Any:
        if self.schedule is None:
            with self.memory.lock:
                return act()
        fate = self.schedule.turn(self.name)
        try:
            if fate == CRASH_BEFORE:
                raise Crash
            with self.memory.lock:
                if fate == DUPLICATE:
                    self.memory.replay(len(self.memory.objects) * 7)
                answer = act()
            if fate == CRASH_AFTER:
                raise Crash
            if fate == LOSE:
                raise LostReply("lost") if write else StoreError("unreachable")
            return answer
        finally:
            self.schedule.done()

    def create(self, key: str, data: bytes) -> Created:
        def act() -> Created:
            if not self.memory.conditional:
                return "unsupported"
            if key in self.memory.objects:
                return "exists"
            self.memory.write(key, data)
            return "created"

        answer: Created = self._step(act, write=True)
        return answer

    def put(self, key: str, data: bytes) -> None:
        self._step(lambda: self.memory.write(key, data), write=True)

    def get(self, key: str) -> bytes | None:
        found = self._step(lambda: self.memory.objects.get(key))
        return found[0] if found else None

    def head(self, key: str) -> ObjectInfo | None:
        found = self._step(lambda: self.memory.objects.get(key))
        return ObjectInfo(key, len(found[0]), found[1]) if found else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key, (data, changed) in sorted(self.memory.objects.items()):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(data), changed)

    def children(self, prefix: str) -> Iterator[str]:
        keys = [key for key in self.memory.objects if key.startswith(prefix)]
        yield from sorted({key[len(prefix) :].split("/")[0] for key in keys})

    def delete(self, key: str) -> None:
        self.memory.objects.pop(key, None)

    def open(self, key: str) -> IO[bytes]:
        raise FileNotFoundError(key)

    def url(self, key: str) -> str:
        return f"memory://{key}"

    def local_path(self, key: str) -> Path | None:
        return None


class Schedule:
    """Lets one request at a time through, in the order that was drawn; then everybody runs."""

    def __init__(self, steps: list[tuple[int, str]]) -> None:
        self._steps = steps
        self._next = 0
        self._waiting: Counter[int] = Counter()
        self._alive = {0, 1}
        self._dead: set[int] = set()
        self._busy = False
        self._changed = threading.Condition()

    def turn(self, name: int) -> str:
        """Wait for this driver's turn; what is to happen to its request."""
        with self._changed:
            self._waiting[name] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and self._may_go(name))
            self._waiting[name] -= 1
            self._busy = True
            if name in self._dead:
                return CRASH_BEFORE
            if self._next >= len(self._steps):
                return GO
            fate = self._steps[self._next][1]
            self._next += 1
            if fate in (CRASH_BEFORE, CRASH_AFTER):
                self._dead.add(name)
            return fate

    def _may_go(self, name: int) -> bool:
        if name in self._dead or self._next >= len(self._steps):
            return True
        wanted = self._steps[self._next][0]
        return wanted == name or wanted not in self._alive

    def done(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def finished(self, name: int) -> None:
        with self._changed:
            self._alive.discard(name)
            self._changed.notify_all()


def drive(store: ObjectStore, run: SmallRun, jitter: float) -> bytes:
    """The command: claim, write what is missing, commit. Returns what it says was committed."""
    create_run(store, run.json)
    for _, key in missing_shards(store, run.json):
        run.write_shard(store, int(key), jitter=jitter)
    return seal(commit_run(store, run.json).to_json())


def open_memory(memory: Memory, schedule: Schedule | None = None, name: int = 0) -> ObjectStore:
    return ObjectStore(Store(url="memory"), Actor(memory, schedule, name))


def run_schedule(memory: Memory, run: SmallRun, steps: list[tuple[int, str]]) -> list[bytes]:
    schedule = Schedule(steps)
    commits: list[bytes] = []

    def work(name: int) -> None:
        try:
            commits.append(drive(open_memory(memory, schedule, name), run, jitter=name + 1.0))
        except (Crash, GradattrError):
            pass
        finally:
            schedule.finished(name)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in (0, 1)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "the schedule is stuck"
    return commits


def check(store: ObjectStore, run: SmallRun) -> None:
    commit = read_commit(store, run.run_id)
    report = verify_run(store, run.run_id)
    assert report.ok, report.problems
    planned = list(range(run.shards * run.rows))
    predictions = read_table(store, commit, "predictions")
    assert predictions["row"].to_pylist() == planned
    for name in ("attributions", "maps"):
        table = read_table(store, commit, name)
        pairs = Counter(zip(table["row"].to_pylist(), table["method"].to_pylist(), strict=True))
        assert pairs == Counter(itertools.product(planned, METHODS))
    attempts = [int(value) for value in predictions["confidence"].to_pylist()]
    for start in range(0, len(attempts), run.rows):
        assert len(set(attempts[start : start + run.rows])) == 1, "two attempts in one shard"


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(20, 200),
    rate=st.sampled_from([0.0, 0.01, 0.03, 0.1]),
    conditional=st.booleans(),
)
def test_any_schedule_ends_in_every_row_once(
    seed: int, length: int, rate: float, conditional: bool
) -> None:
    steps = random_steps(seed, length, rate)
    memory, run = Memory(conditional), SmallRun(shards=2, rows=2)
    commits = run_schedule(memory, run, steps)
    last = open_memory(memory)
    final = drive(last, run, jitter=9.0)
    assert last.get(RunPaths(run.run_id).commit) == final
    if conditional:
        assert set(commits) <= {final}, "a driver said done, and the commit is another one"
    check(last, run)
    collect(last, grace_hours=0)
    check(last, run)
    assert drive(last, run, jitter=10.0) == final, "running it again changes nothing"
