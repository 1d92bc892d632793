"""One door for every task: find what its stage does, do it, answer with an Outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradattr.plan import Task
from gradattr.work.attribute.shard import attribute_shard
from gradattr.work.audit.collect import collect_jobs
from gradattr.work.context import RunContext
from gradattr.work.diffroar.evaluation import evaluate_scheme
from gradattr.work.diffroar.rank import rank_shard
from gradattr.work.diffroar.score import score_trials
from gradattr.work.diffroar.trial import run_trial
from gradattr.work.evaluate.judge import judge_shard
from gradattr.work.evaluate.statistics import summarise_scores
from gradattr.work.outcome import Outcome, attempt
from gradattr.work.patching.shard import patch_shard
from gradattr.work.patching.summarise import summarise_faithfulness
from gradattr.work.tfa.curvature import prepare_curvature
from gradattr.work.tfa.lookup import look_up
from gradattr.work.tfa.map_pairs import map_pairs
from gradattr.work.tfa.merge import merge_block
from gradattr.work.tfa.queries import predict_shard, select_queries
from gradattr.work.tfa.score_shard import score_shard
from gradattr.work.tfa.summarise import summarise_tests
from gradattr.work.train import train_model

#: Stage name -> what a task of it does. A later kind adds its stages here.
STAGES: dict[str, Callable[[RunContext, Task], dict[str, Any]]] = {
    "train": train_model,
    "attribute": attribute_shard,
    "rank": rank_shard,
    "trial": run_trial,
    "evaluate": evaluate_scheme,
    "score": score_trials,
    "predict": predict_shard,
    "select": select_queries,
    "curvature": prepare_curvature,
    "tda": score_shard,
    "lookup": look_up,
    "pair": merge_block,
    "map": map_pairs,
    "summary": summarise_tests,
    "patch": patch_shard,
    "faithfulness": summarise_faithfulness,
    "statistics": summarise_scores,
    "collect": collect_jobs,
    "judge": judge_shard,
}


def perform(context: RunContext, task: Task) -> Outcome:
    """Carry out one task; never raises for what goes wrong inside it."""
    return attempt(task.stage, task.key, lambda: STAGES[task.stage](context, task))
