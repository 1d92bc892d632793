"""What the workers of packs pull from: a queue that knows who has what. No Ray in here.

A *pack* is a group of workers that are started once and then pull trials until there are none
left, because starting them costs more than many a trial. A *place* is where one trial at a time
is under way: each worker of a pack of independent workers, or a whole pack whose workers train one
model together (``width`` > 1).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gradattr.plan import Task
from gradattr.work.outcome import Outcome

#: Number of the pack, number of the place in it.
Place = tuple[int, int]


@dataclass(frozen=True)
class QueueState:
    """What a driver learns each time it asks."""

    outcomes: list[Outcome]
    """Those that have come in since it asked last."""
    waiting: int
    running: int


class PackQueue:
    """Hands out tasks in order, each to one place, and collects their outcomes."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = deque(tasks)
        self._given: dict[Place, list[Task | None]] = {}
        self._running: dict[str, tuple[Place, Task]] = {}
        self._held: dict[str, Outcome] = {}
        self._outcomes: list[Outcome] = []
        self._open = True

    def pull(self, place: Place, step: int) -> Task | None:
        """The task of a place's ``step``-th turn; None, from then on, if nothing is left.

        All workers of a place get the same answer to the same step, whoever asks first; so they
        agree without talking to each other.
        """
        given = self._given.setdefault(place, [])
        if step == len(given):
            task = self._waiting.popleft() if self._waiting and self._open else None
            given.append(task)
            if task is not None:
                self._running[task.key] = (place, task)
        return given[step]

    def push(self, place: Place, outcome: Outcome) -> None:
        """Take in the end of a task. Only the first word of the place that has the task counts:
        not that of its other workers, nor that of a pack that was given up."""
        held = self._running.get(outcome.key)
        if held is None or held[0] != place:
            return
        del self._running[outcome.key]
        self._outcomes.append(outcome)
        if outcome.status == "fatal":
            self.close()

    def hold(self, place: Place, outcome: Outcome) -> None:
        """Take in a failure that may be the consequence of another worker's death, because those
        who train together fail when they lose one: it counts if, when the pack has ended, none
        has died. The first one is kept."""
        held = self._running.get(outcome.key)
        if held is not None and held[0] == place:
            self._held.setdefault(outcome.key, outcome)

    def collect(self) -> QueueState:
        """The new outcomes, and how much is left."""
        outcomes, self._outcomes = self._outcomes, []
        return QueueState(outcomes, len(self._waiting) if self._open else 0, len(self._running))

    def close(self) -> None:
        """Hand out nothing more. What is under way may end."""
        self._open = False

    def end_pack(self, pack: int, died: Mapping[int, str]) -> list[tuple[Task, str]]:
        """A pack has ended. What was under way at the places that ``died`` is returned, with the
        place's reason. Of what was under way elsewhere in it, a failure that was held counts now;
        the rest is handed out again, after everything that is still fresh."""
        blamed = []
        for key, ((number, place), task) in list(self._running.items()):
            if number != pack:
                continue
            failure = self._held.pop(key, None)
            if place not in died and failure is not None:
                self.push((number, place), failure)
                continue
            del self._running[key]
            if place in died:
                blamed.append((task, died[place]))
            else:
                self._waiting.append(task)
        return blamed


class Queue(Protocol):
    """A PackQueue, as a worker sees it from afar."""

    def pull(self, place: Place, step: int) -> Task | None: ...
    def push(self, place: Place, outcome: Outcome) -> None: ...
    def hold(self, place: Place, outcome: Outcome) -> None: ...


class OutOfStepError(Exception):
    """One of several workers that train together has failed; the others may wait for it for ever.
    Ends the pack."""


#: Seconds that one of several workers waits after a failure, for Ray Train to find out whether
#: another has died.
FAILED_SECONDS = 5.0


def work_off(
    queue: Queue,
    pack: int,
    rank: int,
    width: int,
    work: Callable[[Task], Outcome],
    failed_seconds: float = FAILED_SECONDS,
) -> None:
    """What a worker of a pack does: pull a task, do it, say how it ended, until none is left.

    Every worker of a place of several (``width`` > 1) does each of its tasks. Rank 0 speaks for
    all when it went well; whoever fails says so, and after ``failed_seconds`` raises
    OutOfStepError.
    """
    place = (pack, rank if width == 1 else 0)
    step = 0
    while (task := queue.pull(place, step)) is not None:
        outcome = work(task)
        if width > 1 and outcome.status != "ok":
            queue.hold(place, outcome)
            time.sleep(failed_seconds)
            raise OutOfStepError(f"{task.stage} {task.key}: {outcome.error}")
        if width == 1 or rank == 0:
            queue.push(place, outcome)
        step += 1
