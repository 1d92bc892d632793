"""The task that carries out one trial: a fresh model, trained and tested on masked images."""

from __future__ import annotations

from typing import Any

import torch

from gradattr.plan import Task
from gradattr.retraining import train_classifier
from gradattr.retraining.masking import Masking
from gradattr.retraining.ranks import kept_count
from gradattr.retraining.result import TrainResult
from gradattr.storage.objects import open_store
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.diffroar.design import Trial, learners, trial_seeds
from gradattr.work.diffroar.masked_data import masked_data
from gradattr.work.diffroar.rank import level_bins
from gradattr.work.modules import build_module
from gradattr.work.planning.prepare_diffroar import TEST, TRAIN
from gradattr.work.recipes import recipe_of
from gradattr.work.resources import choose_device
from gradattr.work.team import leads, together


def run_trial(context: RunContext, task: Task) -> dict[str, Any]:
    """Carry out ``task.payload['trial']``; write its row and its record; return the ``extra``.

    The result is a function of the trial alone: not of the worker, what it did before, or the
    attempt.
    """
    trial = Trial(**task.payload["trial"])
    extra: dict[str, Any] = {"rows": task.rows, "bad_rows": 0, "torch": torch.__version__}
    result = _train(context, trial, distributed=together(task))
    if trial.scheme is not None:
        extra["models"] = dict(masked_data(context).models)
    columns = {name: [value] for name, value in _row(context, trial, result).items()}
    if leads(task):
        store = open_store(context.manifest.store)
        writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
        writer.append("trials", make_table("trials", columns))
        writer.finish(rows=task.rows, row_ids=columns["row"], extra=extra)
    return extra


def _train(context: RunContext, trial: Trial, *, distributed: bool) -> TrainResult:
    manifest = context.diffroar_manifest
    spec = learners(manifest)[trial.learner]
    assert spec.train is not None
    weights_seed, order_seed = trial_seeds(manifest, trial)
    model = build_module(context, spec, weights_seed)
    data = masked_data(context)
    masks: dict[str, Masking] = {}
    if trial.scheme is not None:
        masks = {
            split: data.masking(
                split,
                trial.scheme,
                trial.level,
                trial.arm,
                mask_only=trial.variant == "mask_only",
                draw=trial.seed,
            )
            for split in (TRAIN, TEST)
        }
    return train_classifier(
        model,
        *data.images(TRAIN),
        recipe_of(spec.train, context.preprocess, context.shape[0], seed=order_seed),
        test=data.images(TEST),
        masking=masks.get(TRAIN),
        test_masking=masks.get(TEST),
        device=choose_device(manifest.engine, manifest.runtime),
        distributed=distributed,
    )


def _row(context: RunContext, trial: Trial, result: TrainResult) -> dict[str, Any]:
    """The trial's row of the table 'trials'."""
    coordinates = level_bins(context.diffroar_manifest, context.shape).coordinates
    kept = kept_count(coordinates, trial.level)
    last = result.history[-1]
    return {
        "row": trial.row,
        "trial": trial.key,
        "scheme": trial.scheme,
        "learner": trial.learner,
        "variant": trial.variant,
        "level": trial.level,
        "arm": trial.arm,
        "seed": trial.seed,
        "kept": coordinates - kept if trial.arm == "rest" else kept,
        "accuracy": result.last_epoch_test_accuracy,
        "best_accuracy": result.best_epoch_test_accuracy,
        "best_epoch": result.best_epoch,
        "test_loss": last.test_loss,
        "train_accuracy": result.last_epoch_train_accuracy,
        "train_loss": result.last_epoch_loss,
        "epochs": result.epochs,
        "stopped": result.stopped,
    }
