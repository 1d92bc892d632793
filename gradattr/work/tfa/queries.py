"""The predictions that are explained: what the model says of the query data, and which are taken.

Two stages: ``predict``, a task per shard of the query data, and ``select``, one task that takes
the queries and numbers them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.data.registry import read_shard
from gradattr.data.types import Batch, DataIndex, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.tfa import Queries
from gradattr.plan import Task
from gradattr.seeds import sample_seeds
from gradattr.storage.objects import open_store
from gradattr.storage.reader import read_stage
from gradattr.storage.run_json import read_run
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.tfa.bad_rows import BadRows, failed_columns
from gradattr.work.tfa.layout import PREDICT_STAGE, QUERY_DATA
from gradattr.work.tfa.loaded import images_at_once, load_for

Row = dict[str, Any]


def predict_shard(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``predictions`` of the shard ``task.payload['shard']`` of the query data."""
    manifest = context.tfa_manifest
    loaded = load_for(context)
    writer = ShardWriter(
        open_store(manifest.store), context.run_id, context.fingerprint, task.stage, task.key
    )
    bad = BadRows(task.stage)
    row_ids: list[int] = []
    for batch in read_shard(
        manifest.queries.data,
        ShardRef.from_json(task.payload["shard"]),
        context.preprocess,
        batch_size=images_at_once(context),
        options=context.data_options,
    ):
        batch = bad.sift(batch, context.num_classes, labelled=False)
        said = _predicted(loaded.module, loaded.device, batch, bad)
        for rows in (said, failed_columns(bad.newest)):
            if rows["row"]:
                writer.append("predictions", make_table("predictions", rows))
                row_ids += rows["row"]
    bad.write(writer)
    extra = {
        "rows": task.rows,
        "input_rows": task.rows,
        **bad.extra(),
        "models": loaded.digests,
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    writer.finish(rows=task.rows, row_ids=row_ids, extra=extra)
    return extra


def _predicted(
    module: torch.nn.Module, device: torch.device, batch: Batch, bad: BadRows
) -> dict[str, Any]:
    """Columns of ``predictions``; images of which the model says no numbers become bad rows."""
    if not len(batch):
        return {"row": []}
    said = predictions(module, batch.x.to(device), batch.labels.to(device))
    if not all(said.finite):
        text = "the model's output has a NaN or an infinity"
        batch = bad.leave_out(batch, ~torch.tensor(said.finite), "non_finite", text)
        return _predicted(module, device, batch, bad)
    labels = [label if label >= 0 else None for label in batch.labels.tolist()]
    known = [label is not None for label in labels]
    columns = {
        "row": batch.rows,
        "sample_id": batch.sample_ids,
        "label": labels,
        "predicted": said.predicted,
        "correct": [
            p == label if label is not None else None
            for p, label in zip(said.predicted, labels, strict=True)
        ],
        "confidence": said.confidence,
        "loss": [loss if there else None for loss, there in zip(said.loss, known, strict=True)],
        "status": ["ok"] * len(batch),
    }
    for name, values in (("signal_on_top", batch.signal_on_top), ("patched", batch.patched)):
        if values is not None:
            columns[name] = values.tolist()
    return columns


@dataclass(frozen=True)
class Said:
    """What a model says of n images."""

    predicted: list[int]
    confidence: list[float]
    """Softmax probability of the predicted class."""
    loss: list[float]
    """Cross-entropy at the label, in nats; of an unlabelled image without meaning."""
    finite: list[bool]
    """Whether there is a NaN or an infinity in none of its log-probabilities."""


def predictions(module: torch.nn.Module, x: Tensor, labels: Tensor) -> Said:
    """What ``module`` says of images x (n, ...) with labels (n,)."""

    def logits(size: int) -> Tensor:
        with torch.no_grad():
            return torch.cat([module(part).float() for part in torch.split(x, size)])

    logs = F.log_softmax(halve_on_oom(logits, len(x))[0], dim=1)
    best, predicted = logs.max(dim=1)
    loss = -logs.gather(1, labels.clamp_min(0)[:, None])[:, 0]
    finite = torch.isfinite(logs).all(dim=1)
    return Said(predicted.tolist(), best.exp().tolist(), loss.tolist(), finite.tolist())


def select_queries(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the table ``queries``: those of the predictions that the manifest asks for."""
    manifest = context.tfa_manifest
    store = open_store(manifest.store)
    found: list[Row] = []
    for _, table in read_stage(
        store, read_run(store, context.run_id), PREDICT_STAGE, "predictions"
    ):
        found += table.to_pylist()
    names = DataIndex.from_json(context.indexes[QUERY_DATA]).class_names
    chosen = choose(found, manifest.queries, manifest.seed, names)
    columns = {
        "query": list(range(len(chosen))),
        "query_row": [row["row"] for row in chosen],
        **{
            name: [row[name] for row in chosen]
            for name in ("sample_id", "label", "predicted", "correct", "confidence", "loss")
        },
    }
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    writer.append("queries", make_table("queries", columns))
    extra = {"rows": task.rows, "bad_rows": 0, "queries": len(chosen)}
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def choose(
    found: Sequence[Row], asked: Queries, seed: int, class_names: Sequence[str] | None
) -> list[Row]:
    """The rows of ``predictions`` that are queries, in their order. DataError names an id that is
    not there or cannot be used."""
    if asked.ids is not None:
        by_id = {row["sample_id"]: row for row in found}
        check_ids(asked.ids, by_id)
        chosen = [by_id[name] for name in asked.ids]
        for row in chosen:
            if row["status"] != "ok":
                raise DataError(
                    f"queries.ids: {row['sample_id']!r} cannot be used: {row['status']}, "
                    f"{row['error']}"
                )
            if row["label"] is None and asked.target.endswith("_true"):
                raise DataError(
                    f"queries.ids: {row['sample_id']!r} has no label; use target loss_pred"
                )
        return chosen
    usable = [row for row in found if row["status"] == "ok" and _wanted(row, asked, class_names)]
    return _limited(_ordered(usable, asked, seed), asked)


def check_ids(asked: Sequence[str], known: Collection[str]) -> None:
    """DataError if one is not among the query data's sample ids."""
    missing = [name for name in asked if name not in known]
    if missing:
        raise DataError(
            f"queries.ids: {missing[0]!r} is not in the query data ({len(missing)} of "
            f"{len(asked)} are not); ids look like {next(iter(known))!r}"
        )


def _wanted(row: Row, asked: Queries, class_names: Sequence[str] | None) -> bool:
    if asked.target.endswith("_true") and row["label"] is None:
        return False
    if asked.select != "all" and row["correct"] is not (asked.select == "correct"):
        return False
    return asked.classes is None or row["label"] in class_numbers(asked, class_names)


def class_numbers(asked: Queries, class_names: Sequence[str] | None) -> set[int]:
    """The classes that are asked for, as numbers. DataError for a name that no class has."""
    names = list(class_names or ())
    numbers = set()
    for wanted in asked.classes or ():
        if isinstance(wanted, int):
            numbers.add(wanted)
        elif wanted in names:
            numbers.add(names.index(wanted))
        else:
            known = f"its classes are {', '.join(names)}" if names else "it has no class names"
            raise DataError(f"queries.classes: the query data has no class '{wanted}'; {known}")
    return numbers


def _ordered(rows: list[Row], asked: Queries, seed: int) -> list[Row]:
    if asked.order == "random":
        drawn = sample_seeds(seed, "query order", [row["sample_id"] for row in rows])
        pairs = sorted(zip(drawn, rows, strict=True), key=lambda pair: (pair[0], pair[1]["row"]))
        return [row for _, row in pairs]
    rows = sorted(rows, key=lambda row: row["row"])
    if asked.order == "loss":
        rows.sort(key=lambda row: -(row["loss"] if row["loss"] is not None else 0.0))
    return rows


def _limited(rows: list[Row], asked: Queries) -> list[Row]:
    taken: list[Row] = []
    counts: dict[int | None, int] = {}
    for row in rows:
        if len(taken) == asked.count:
            break
        counts[row["label"]] = counts.get(row["label"], 0) + 1
        if asked.per_class is None or counts[row["label"]] <= asked.per_class:
            taken.append(row)
    return taken
