"""One door for every task: find what its stage does, do it, answer with an Outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradattr.plan import Task
from gradattr.work.attribute import attribute_shard
from gradattr.work.context import RunContext
from gradattr.work.evaluation import evaluate_scheme
from gradattr.work.outcome import Outcome, attempt
from gradattr.work.rank import rank_shard
from gradattr.work.score import score_trials
from gradattr.work.train import train_model
from gradattr.work.trial import run_trial

#: Stage name -> what a task of it does. A later kind adds its stages here.
STAGES: dict[str, Callable[[RunContext, Task], dict[str, Any]]] = {
    "train": train_model,
    "attribute": attribute_shard,
    "rank": rank_shard,
    "trial": run_trial,
    "evaluate": evaluate_scheme,
    "score": score_trials,
}


def perform(context: RunContext, task: Task) -> Outcome:
    """Carry out one task; never raises for what goes wrong inside it."""
    return attempt(task.stage, task.key, lambda: STAGES[task.stage](context, task))
