"""The task that trains a model: look whether the store has it already, else train and keep it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from gradattr.data.types import DataIndex
from gradattr.manifest.model import AnyModel, TrainSpec
from gradattr.models import (
    StoredCheckpoints,
    StoredEpochs,
    TrainedModel,
    read_trained,
    write_trained,
)
from gradattr.plan import Task
from gradattr.retraining import train_classifier
from gradattr.seeds import derive_seed
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.modules import build_module
from gradattr.work.recipes import recipe_of
from gradattr.work.resources import choose_device
from gradattr.work.team import agreed, leads, together
from gradattr.work.training_data import load_labelled

_MODEL: TypeAdapter[AnyModel] = TypeAdapter(AnyModel)

_EPOCH_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "test_loss",
    "test_accuracy",
    "lr",
    "robust_test_accuracy",
)


def train_model(context: RunContext, task: Task) -> dict[str, Any]:
    """Train the model of ``task.payload`` unless the store has it; write the shard record."""
    store = open_store(context.manifest.store)
    digest = task.payload["digest"]
    trained = read_trained(store, digest)
    if agreed(task, trained is None):
        trained = _train(context, task, store)
    if trained is None or not leads(task):
        # One of a team that trained the model together: the first of it writes.
        return {"rows": task.rows, "bad_rows": 0}
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    history = trained.metrics["history"]
    columns = {name: [epoch[name] for epoch in history] for name in _EPOCH_COLUMNS}
    columns["model"] = [task.payload["role"]] * len(history)
    writer.append("training", make_table("training", columns))
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "model": trained.reference(),
        "models": {task.payload["role"]: trained.sha256},
        # Checked along with the run's own files; without them this shard counts as not done.
        "files": trained.files(),
        "role": task.payload["role"],
        "epochs": len(history),
        "kept_epochs": [weights.epoch for weights in trained.kept],
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _train(context: RunContext, task: Task, store: ObjectStore) -> TrainedModel | None:
    """The trained and stored model; None in a process whose team's first one stores it."""
    spec = _MODEL.validate_python(task.payload["model"])
    assert spec.train is not None
    sets = {"train": spec.train.data, "test": spec.train.test}
    loaded = {
        name: load_labelled(data, DataIndex.from_json(task.payload["data"][name]), context)
        for name, data in sets.items()
        if data is not None
    }
    model = build_module(context, spec, spec.train.seed)
    test = loaded.get("test")
    digest = task.payload["digest"]
    kept = StoredEpochs(store, digest, spec.train.keep_epochs)
    checkpoints = StoredCheckpoints(store, digest, kept)
    result = train_classifier(
        model,
        loaded["train"].x,
        _labels(loaded["train"].labels, spec.train),
        recipe_of(
            spec.train,
            context.preprocess,
            context.shape[0],
            seed=spec.train.seed,
            checkpoint_every=spec.train.checkpoint_every,
        ),
        test=None if test is None else (test.x, test.labels),
        device=choose_device(context.manifest.engine, context.manifest.runtime),
        checkpoints=checkpoints,
        keep=kept,
        distributed=together(task),
    )
    if not leads(task):
        return None
    return write_trained(
        store, digest, model, spec, context.shape, context.num_classes, result, kept.kept
    )


def _labels(labels: Tensor, train: TrainSpec) -> Tensor:
    """What is learned, (n,): the labels, or all of them on other images where that is asked."""
    if train.permute_labels is None:
        return labels
    generator = torch.Generator().manual_seed(derive_seed(train.permute_labels, "labels"))
    return labels[torch.randperm(len(labels), generator=generator)]
