"""The task that trains a model: look whether the store has it already, else train and keep it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import TypeAdapter

from gradattr.data.registry import load_all
from gradattr.data.types import Batch, DataIndex
from gradattr.errors import DataError
from gradattr.manifest.data import AnyData
from gradattr.manifest.model import AnyModel
from gradattr.models import TrainedModel, build_model, read_trained, write_trained
from gradattr.models.trained import StoredCheckpoints
from gradattr.plan import Task
from gradattr.retraining import Recipe, train_classifier
from gradattr.retraining.recipe import Augmentation
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.resources import choose_device

_MODEL: TypeAdapter[AnyModel] = TypeAdapter(AnyModel)

_EPOCH_COLUMNS = ("epoch", "loss", "accuracy", "test_loss", "test_accuracy", "lr")


def recipe_of(spec: AnyModel) -> Recipe:
    """The training recipe of a model spec with a ``train`` block."""
    train = spec.train
    assert train is not None
    augment = None
    if train.augment is not None:
        augment = Augmentation(train.augment.crop_padding, train.augment.flip)
    return Recipe(
        optimizer=train.optimizer,
        lr=train.lr,
        lr_decay=train.lr_decay,
        lr_decay_every=train.lr_decay_every,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
        batch_size=train.batch_size,
        epochs=train.epochs,
        stop_below=train.stop_below,
        augment=augment,
        seed=train.seed,
        checkpoint_every=train.checkpoint_every,
    )


def train_model(context: RunContext, task: Task) -> dict[str, Any]:
    """Train the model of ``task.payload`` unless the store has it; write the shard record."""
    store = open_store(context.manifest.store)
    digest = task.payload["digest"]
    trained = read_trained(store, digest)
    if trained is None:
        trained = _train(context, task, store)
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    history = trained.metrics["history"]
    columns = {name: [epoch[name] for epoch in history] for name in _EPOCH_COLUMNS}
    columns["model"] = [task.payload["role"]] * len(history)
    writer.append("training", make_table("training", columns))
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "model": trained.reference(),
        # Checked along with the run's own files; without them this shard counts as not done.
        "files": [{"key": trained.key, "bytes": trained.bytes, "sha256": trained.sha256}],
        "role": task.payload["role"],
        "epochs": len(history),
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _train(context: RunContext, task: Task, store: ObjectStore) -> TrainedModel:
    spec = _MODEL.validate_python(task.payload["model"])
    assert spec.train is not None
    sets = {"train": spec.train.data, "test": spec.train.test}
    loaded = {
        name: _load(sets[name], DataIndex.from_json(index), context)
        for name, index in task.payload["data"].items()
    }
    model = build_model(
        spec, shape=context.shape, num_classes=context.num_classes, seed=spec.train.seed
    )
    test = loaded.get("test")
    digest = task.payload["digest"]
    checkpoints = StoredCheckpoints(store, digest)
    result = train_classifier(
        model,
        loaded["train"].x,
        loaded["train"].labels,
        recipe_of(spec),
        test=None if test is None else (test.x, test.labels),
        device=choose_device(context.manifest.engine, context.manifest.runtime),
        checkpoints=checkpoints,
    )
    return write_trained(store, digest, model, spec, context.shape, context.num_classes, result)


def _load(data: AnyData | None, index: DataIndex, context: RunContext) -> Batch:
    assert data is not None
    batch = load_all(data, index, context.preprocess, options=context.data_options)
    labels = batch.labels
    if bool((labels < 0).any()) or bool((labels >= context.num_classes).any()):
        wrong = torch.nonzero((labels < 0) | (labels >= context.num_classes))[0].item()
        raise DataError(
            f"training data: row {batch.rows[int(wrong)]} has label {int(labels[int(wrong)])}, "
            f"but the model has classes 0 to {context.num_classes - 1}"
        )
    return batch
