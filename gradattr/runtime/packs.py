"""Trials in packs: worker groups that are started once and pull trials until none is left.

A crash is charged to the trial whose worker died. Trials that were under way beside it, and ended
with their pack, go back into the queue without a mark. Crashed ones come again when the driver
sends them again, which is after everything else; those that have crashed twice then run alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from gradattr.errors import ShardError, UsageError
from gradattr.manifest.operation import Runtime
from gradattr.plan import Task
from gradattr.runtime.executor import Stopped
from gradattr.runtime.pack_queue import PackQueue, QueueState
from gradattr.runtime.pack_worker import PackEnd, PackOrder, PackStarter, Work
from gradattr.runtime.slots import describe, needs, pack_sizes, slots
from gradattr.work.outcome import Outcome

#: Crashes after which a trial runs with nothing beside it.
SUSPICIOUS = 2

#: Packs in a row that may end with an error and without a trial done or blamed.
FRUITLESS = 3

#: Seconds to wait for what another task or pack is just giving back, before taking what is free.
SETTLE_SECONDS = 10.0

#: Seconds for workers that found nothing left to end by themselves.
END_SECONDS = 5.0

_POLL_SECONDS = 0.5


class Packs:
    """Carries out tasks in packs on a connected Ray.

    ``watch`` says whether the cluster's head answers, and raises ShardError if Ray is gone; it is
    called often. ``grace`` is how many seconds trials get to finish after a stop.
    """

    def __init__(
        self,
        context: dict[str, Any],
        runtime: Runtime,
        watch: Callable[[], bool],
        grace: float,
        work: Work | None = None,
    ) -> None:
        self._context = context
        self._runtime = runtime
        self._watch = watch
        self._grace = grace
        self._work = work
        self._crashes: Counter[str] = Counter()
        self._packs = 0

    def check(self, width: int) -> None:
        """Raise UsageError if ``width`` workers can never run at once."""
        fit = slots(_nodes(), self._runtime)
        if fit >= width:
            return
        each = describe(needs(self._runtime))
        limit = "" if self._runtime.workers == "auto" else " (runtime.workers is a limit too)"
        raise UsageError(
            f"a training asks for {width} workers at once, {each} each, "
            f"{describe(needs(self._runtime), width)} in all; the cluster has room for {fit}"
            f"{limit}. Lower 'workers' in the training recipe, runtime.cpus_per_task or "
            "runtime.gpus_per_task, or use a larger cluster"
        )

    def run(self, tasks: Sequence[Task], width: int, stopped: Stopped) -> Iterator[Outcome]:
        """Yield outcomes as they come; as an Executor does. ``width``: workers per task."""
        self.check(width)
        suspects = [task for task in tasks if self._crashes[task.key] >= SUSPICIOUS]
        others = [task for task in tasks if self._crashes[task.key] < SUSPICIOUS]
        for some, alone in ((others, False), (suspects, True)):
            if some and not stopped():
                session = _Session(self, some, width, alone)
                try:
                    yield from session.run(stopped)
                finally:
                    session.end()

    def order(self, workers: int, width: int) -> PackOrder:
        """A new pack."""
        self._packs += 1
        threads = max(1, int(self._runtime.cpus_per_task))
        return PackOrder(
            self._packs, workers, width, needs(self._runtime), threads, self._context, self._work
        )

    def crashed(self, task: Task, reason: str) -> Outcome:
        """Note that a task's worker died."""
        self._crashes[task.key] += 1
        return Outcome(task.stage, task.key, "crashed", error=reason)

    def options(self) -> dict[str, Any]:
        """Where a queue, and what starts a pack, run: with the driver, where there is one, so that
        any other machine of the cluster may go."""
        if self._runtime.address.startswith("ray://"):
            return {}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=True)}

    def room(self) -> tuple[int, int]:
        """Workers that fit: at the moment, and if the cluster had nothing else to do."""
        most = slots(_nodes(), self._runtime)
        return min(most, slots([ray.available_resources()], self._runtime)), most

    def head_is_there(self) -> bool:
        """False while the head is being restarted; ShardError if Ray is gone."""
        return self._watch()

    @property
    def grace(self) -> float:
        """Seconds."""
        return self._grace


@dataclass(frozen=True)
class _Active:
    """A pack that has not ended."""

    order: PackOrder
    starter: Any


class _Session:
    """One queue, and the packs that pull from it."""

    def __init__(self, packs: Packs, tasks: Sequence[Task], width: int, alone: bool) -> None:
        self._packs = packs
        self._width = width
        self._alone = alone
        options = packs.options()
        actor: Any = ray.remote(num_cpus=0)(PackQueue)
        self._queue = actor.options(**options).remote(list(tasks))
        starter: Any = PackStarter
        self._starter = starter.options(**options)
        self._active: dict[Any, _Active] = {}
        self._sizes: list[int] = []
        self._fruitless = 0
        self._wanting = time.monotonic()

    def run(self, stopped: Stopped) -> Iterator[Outcome]:
        while True:
            head_is_there = self._packs.head_is_there()
            state = self._collect()
            yield from state.outcomes
            if stopped():
                yield from self._drain()
                return
            if not state.waiting and not self._active:
                return
            if head_is_there:
                self._start(state.waiting)
            yield from self._ended()

    def end(self) -> None:
        """End what is still there. Ray ends a pack's workers with the process that started it."""
        with suppress(ray.exceptions.RayError, ConnectionError):
            for active in self._active.values():
                ray.kill(active.starter)
            ray.kill(self._queue)

    def _collect(self) -> QueueState:
        state: QueueState = ray.get(self._queue.collect.remote())
        if state.outcomes:
            self._fruitless = 0
        return state

    def _start(self, waiting: int) -> None:
        """Start packs for so many waiting tasks, where there is room."""
        if waiting and not self._active:
            self._sizes = self._choose_sizes(waiting)
        while self._sizes and waiting > 0:
            size = self._sizes.pop()
            workers = min(size, waiting) if self._width == 1 else size
            order = self._packs.order(workers, self._width)
            starter = self._starter.remote()
            self._active[starter.run.remote(self._queue, order)] = _Active(order, starter)
            waiting -= workers if self._width == 1 else 1

    def _choose_sizes(self, waiting: int) -> list[int]:
        free, most = self._packs.room()
        places = 1 if self._alone else waiting
        sizes = pack_sizes(free, places, self._width)
        settled = time.monotonic() - self._wanting > SETTLE_SECONDS
        if not settled and sum(sizes) < sum(pack_sizes(most, places, self._width)):
            return []
        return sizes

    def _ended(self) -> Iterator[Outcome]:
        """Wait a moment for packs to end, and say which tasks died with them."""
        if not self._active:
            time.sleep(_POLL_SECONDS)
            return
        done, _ = ray.wait(list(self._active), timeout=_POLL_SECONDS)
        for reference in done:
            active = self._active.pop(reference)
            order = active.order
            end = _how_it_ended(reference)
            ray.kill(active.starter)
            died = end.died
            if self._width > 1 and died:
                # Of workers that train together, the death of one is the death of all.
                died = {0: next(iter(died.values()))}
            blamed = ray.get(self._queue.end_pack.remote(order.number, died))
            for task, reason in blamed:
                yield self._packs.crashed(task, reason)
            self._learn(order, end, bool(blamed))

    def _learn(self, order: PackOrder, end: PackEnd, blamed: bool) -> None:
        """What a pack's end says about starting another one."""
        self._wanting = time.monotonic()
        if not end.error or blamed:
            self._sizes.append(order.workers)
            self._fruitless = 0
        elif not self._active:
            # Planned anew once more, for the cluster may have shrunk.
            self._fruitless += 1
        if self._fruitless >= FRUITLESS:
            raise ShardError(
                f"{FRUITLESS} worker groups of Ray Train in a row ended before a trial was done: "
                f"{end.error}. Finished shards are kept, and the same command goes on from there"
            )

    def _drain(self) -> Iterator[Outcome]:
        """Hand out nothing more; what is under way gets the grace period."""
        deadline = time.monotonic() + self._packs.grace
        try:
            ray.get(self._queue.close.remote())
            while True:
                self._packs.head_is_there()
                state = self._collect()
                yield from state.outcomes
                if not state.running or time.monotonic() > deadline:
                    break
                time.sleep(_POLL_SECONDS)
            if not state.running and self._active:
                ray.wait(list(self._active), num_returns=len(self._active), timeout=END_SECONDS)
        except (ShardError, ray.exceptions.RayError):
            # The signal has reached Ray's own processes too: there is nothing to wait for.
            return


def _how_it_ended(reference: Any) -> PackEnd:
    try:
        end: PackEnd = ray.get(reference)
    except ray.exceptions.RayError as error:
        return PackEnd(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}")
    return end


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
