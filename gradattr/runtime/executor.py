"""How tasks get carried out: the interface, and the simplest way, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from gradattr.plan import Task
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome
from gradattr.work.perform import perform

Stopped = Callable[[], bool]


class Executor(Protocol):
    """Runs tasks, each at least once, and yields the end of each attempt as it comes."""

    def describe(self) -> str:
        """Where tasks run, for people."""

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise UsageError if one of these tasks can never be carried out here; asked before the
        first of them is."""

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Outcome]:
        """Yield one outcome per attempt; the caller decides about another attempt by
        sending the task again. Stops handing out tasks once ``stopped()`` is true, waits for
        those under way (a grace period at most) and ends."""


class InlineExecutor:
    """One task after the other in this process: for tests, debugging and notebooks."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def describe(self) -> str:
        return "this process, without Ray"

    def check(self, tasks: Sequence[Task]) -> None:
        """One process can do every task, if slowly: also one that asks for several workers."""

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Outcome]:
        for task in tasks:
            if stopped():
                return
            yield perform(self._context, task)


@contextmanager
def inline(context: RunContext) -> Iterator[Executor]:
    """Tasks in this process."""
    yield InlineExecutor(context)


OpenExecutor = Callable[[RunContext], AbstractContextManager[Executor]]
