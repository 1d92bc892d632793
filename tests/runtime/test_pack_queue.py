"""Who gets which task, and who is blamed: the queue of packs, without Ray."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.plan import Task
from gradattr.runtime.pack_queue import OutOfStepError, PackQueue, Place, work_off
from gradattr.work.outcome import Outcome, Status


def _tasks(count: int) -> list[Task]:
    return [Task("trial", f"{number:03d}", 1, {}) for number in range(count)]


def _outcome(task: Task, status: Status = "ok") -> Outcome:
    return Outcome(task.stage, task.key, status, error="" if status == "ok" else "as told")


def _keys(queue: PackQueue) -> list[str]:
    return [outcome.key for outcome in queue.collect().outcomes]


def test_places_get_different_tasks_in_order() -> None:
    first, second, third = tasks = _tasks(3)
    queue = PackQueue(tasks)
    assert queue.pull((1, 0), 0) is first
    assert queue.pull((1, 1), 0) is second
    queue.push((1, 1), _outcome(second))
    assert queue.pull((1, 1), 1) is third
    assert queue.pull((1, 1), 2) is None
    state = queue.collect()
    assert (state.outcomes, state.waiting, state.running) == ([_outcome(second)], 0, 2)
    assert queue.collect().outcomes == []


def test_all_workers_of_a_place_get_the_same_task() -> None:
    first, second = _tasks(2)
    queue = PackQueue([first, second])
    assert [queue.pull((1, 0), 0) for _ in range(3)] == [first] * 3
    # The fast rank is a step ahead, and rank 0 has not spoken yet.
    assert queue.pull((1, 0), 1) is second
    assert queue.pull((1, 0), 0) is first
    assert queue.collect().running == 2


def test_none_is_none_for_all_even_if_something_comes_back() -> None:
    (task,) = _tasks(1)
    queue = PackQueue([task])
    assert queue.pull((1, 0), 0) is task
    assert queue.pull((2, 0), 0) is None
    assert queue.end_pack(1, {}) == []
    # Another rank of pack 2 asks late: it must not begin what the others will not join.
    assert queue.pull((2, 0), 0) is None
    assert queue.pull((3, 0), 0) is task


def test_only_the_dead_are_blamed() -> None:
    first, second, third, fourth = tasks = _tasks(4)
    queue = PackQueue(tasks)
    queue.pull((1, 0), 0)
    queue.pull((1, 1), 0)
    queue.pull((2, 0), 0)
    assert queue.end_pack(1, {1: "shot", 7: "was idle"}) == [(second, "shot")]
    # The innocent comes again, after what is fresh; the other pack keeps what it has.
    assert queue.collect().running == 1
    assert queue.pull((3, 0), 0) is fourth
    assert queue.pull((3, 0), 1) is first
    assert queue.pull((3, 0), 2) is None
    queue.push((2, 0), _outcome(third))
    assert _keys(queue) == [third.key]


def test_the_word_of_a_pack_that_was_given_up_does_not_count() -> None:
    (task,) = _tasks(1)
    queue = PackQueue([task])
    queue.pull((1, 0), 0)
    queue.end_pack(1, {})
    queue.pull((2, 0), 0)
    queue.push((1, 0), _outcome(task))
    assert _keys(queue) == []
    queue.push((2, 0), _outcome(task))
    queue.push((2, 0), _outcome(task, "failed"))
    assert queue.collect().outcomes == [_outcome(task)]


@pytest.mark.parametrize("how", ["closed", "fatal"])
def test_once_closed_nothing_is_handed_out(how: str) -> None:
    first, second, third = tasks = _tasks(3)
    queue = PackQueue(tasks)
    queue.pull((1, 0), 0)
    queue.pull((1, 1), 0)
    if how == "closed":
        queue.close()
    else:
        queue.push((1, 1), _outcome(second, "fatal"))
    assert queue.pull((1, 2), 0) is None
    queue.push((1, 0), _outcome(first))
    state = queue.collect()
    assert state.waiting == 0
    assert state.outcomes[-1] == _outcome(first)
    assert third.key not in {outcome.key for outcome in state.outcomes}


def _do(status: Callable[[Task], Status]) -> tuple[list[str], Callable[[Task], Outcome]]:
    done: list[str] = []

    def work(task: Task) -> Outcome:
        done.append(task.key)
        return _outcome(task, status(task))

    return done, work


def test_a_worker_works_the_queue_off_whatever_fails() -> None:
    queue = PackQueue(_tasks(4))
    done, work = _do(lambda task: "failed" if task.key == "001" else "ok")
    work_off(queue, 1, rank=3, width=1, work=work)
    assert done == _keys(queue) == ["000", "001", "002", "003"]
    assert queue.collect().running == 0


def test_a_group_does_every_task_together_and_speaks_once() -> None:
    queue = PackQueue(_tasks(5))
    together = threading.Barrier(3)
    notes: Counter[str] = Counter()

    def work(task: Task) -> Outcome:
        together.wait(10)  # Fails if the three are not at the same number of tasks.
        notes[task.key] += 1
        return _outcome(task)

    ranks = [
        threading.Thread(target=work_off, args=(_Locked(queue), 1, rank, 3, work))
        for rank in range(3)
    ]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(20)
    assert notes == dict.fromkeys((task.key for task in _tasks(5)), 3)
    assert _keys(queue) == [task.key for task in _tasks(5)]


class _Locked:
    """One call at a time, as an actor has it."""

    def __init__(self, queue: PackQueue) -> None:
        self._queue = queue
        self._lock = threading.Lock()

    def pull(self, place: Place, step: int) -> Task | None:
        with self._lock:
            return self._queue.pull(place, step)

    def push(self, place: Place, outcome: Outcome) -> None:
        with self._lock:
            self._queue.push(place, outcome)

    def hold(self, place: Place, outcome: Outcome) -> None:
        with self._lock:
            self._queue.hold(place, outcome)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_says_so_and_ends_its_group(rank: int) -> None:
    queue = PackQueue(_tasks(2))
    done, work = _do(lambda task: "failed")
    with pytest.raises(OutOfStepError, match="trial 000: as told"):
        work_off(queue, 1, rank, 2, work, failed_seconds=0)
    assert done == ["000"]
    assert _keys(queue) == []  # Not before it is known whether another rank has died.
    assert queue.end_pack(1, {}) == []
    state = queue.collect()
    assert [(outcome.key, outcome.status) for outcome in state.outcomes] == [("000", "failed")]
    assert (state.waiting, state.running) == (1, 0)


def test_a_rank_that_fails_because_another_died_is_not_believed() -> None:
    (task,) = _tasks(1)
    queue = PackQueue([task])
    _, work = _do(lambda task: "failed")
    with pytest.raises(OutOfStepError):
        work_off(queue, 1, 0, 2, work, failed_seconds=0)
    assert queue.end_pack(1, {0: "shot"}) == [(task, "shot")]
    assert _keys(queue) == []


def test_only_the_place_that_has_a_task_can_fail_it() -> None:
    (task,) = _tasks(1)
    queue = PackQueue([task])
    queue.pull((1, 0), 0)
    queue.hold((9, 0), _outcome(task, "fatal"))
    assert queue.end_pack(1, {}) == []
    state = queue.collect()
    assert (state.outcomes, state.waiting, state.running) == ([], 1, 0)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 12), st.integers(0, 2**32))
def test_whatever_dies_every_task_ends_once(count: int, seed: int) -> None:
    """Packs of two places that finish, die and are replaced in any order: each task is reported,
    or blamed, exactly once, and none is lost."""
    chance = random.Random(seed)
    queue = PackQueue(_tasks(count))
    ended: Counter[str] = Counter()
    held: dict[Place, Task] = {}
    steps: Counter[Place] = Counter()
    pack = 0
    while True:
        for number in (0, 1):
            place = (pack, number)
            if place not in held and (task := queue.pull(place, steps[place])) is not None:
                held[place] = task
                steps[place] += 1
        if not held:
            break
        place = chance.choice(sorted(held))
        if chance.random() < 0.5:
            queue.push(place, _outcome(held.pop(place)))
        elif chance.random() < 0.5:
            for task, reason in queue.end_pack(pack, {place[1]: "died"}):
                assert (task, reason) == (held[place], "died")
                ended[task.key] += 1
            held.clear()
            pack += 1
        ended.update(_keys(queue))
    assert ended == dict.fromkeys((task.key for task in _tasks(count)), 1)
