"""What a run of kind tfa says, and what a plain loop over examples in float64 says."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.data.registry import index_data, load_all
from gradattr.data.types import Batch
from gradattr.manifest.tfa import TfaManifest
from gradattr.models import load_kept, read_trained
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.work.context import MAIN
from gradattr.work.modules import load_module
from gradattr.work.planning.prepare import prepare


def finished(manifest: TfaManifest) -> Run:
    """The run, carried out in this process unless it is there already."""
    return open_run(run(manifest).uri)


def rows_of(found: Run, table: str) -> list[dict[str, Any]]:
    """A table without its maps, in one order whatever the tasks were."""
    columns = [name for name in found.table(table).column_names if name != "map"]
    rows = found.table(table).select(columns).to_pylist()
    names = ("query", "method", "side", "rank", "map_method", "test", "steps", "level", "train_row")
    keys = [name for name in names if name in columns]
    return sorted(rows, key=lambda row: [row[key] for key in keys])


def score_matrix(found: Run, method: str, rows: list[int]) -> np.ndarray:
    """(training rows, queries) of the table ``tda_scores``; NaN where there is none."""
    table = found.table("tda_scores")
    queries = found.table("queries").num_rows
    values = np.full((max(rows) + 1, queries), np.nan, np.float32)
    for row in table.to_pylist():
        if row["method"] == method:
            assert np.isnan(values[row["train_row"], row["query"]])
            values[row["train_row"], row["query"]] = row["score"]
    return values[rows]


def map_values(table: pa.Table) -> dict[tuple[Any, ...], np.ndarray]:
    """(query, method, train row, map method) -> (c, h, w), of rows that have a map."""
    names = ("query", "method", "train_row", "map_method", "channels", "height", "width", "map")
    found = {}
    for row in table.select(names).to_pylist():
        if row["map"] is not None:
            shape = (row["channels"], row["height"], row["width"])
            values = np.asarray(row["map"]).reshape(shape)
            found[tuple(row[name] for name in names[:4])] = values
    return found


def gradients(
    model: nn.Module, x: Tensor, y: Tensor, target: str = "loss_true", names: Any = None
) -> Tensor:
    """(n, parameters) float64: one backward pass for each example through the bare model."""
    rows = []
    chosen = [p for name, p in model.named_parameters() if names is None or name in names]
    for image, label in zip(x.double(), y, strict=True):
        value = query_loss(model(image[None])[0], int(label), target)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, chosen)]))
    return torch.stack(rows)


def query_loss(logits: Tensor, label: int, target: str) -> Tensor:
    """What a query wants small."""
    kind, which = target.split("_")
    index = int(logits.argmax()) if which == "pred" else label
    if kind == "logit":
        return -logits[index]
    return F.cross_entropy(logits[None], torch.tensor([index]))


class Oracle:
    """The data and the weights of a run, read without its stages."""

    def __init__(self, manifest: TfaManifest) -> None:
        self.manifest = manifest
        self.context = prepare(manifest).context
        self.run = finished(manifest)

    @cached_property
    def train(self) -> Batch:
        data = self.manifest.data
        return load_all(data, index_data(data), self.context.preprocess)

    @cached_property
    def queries(self) -> Batch:
        """The images of the queries, in their order."""
        data = self.manifest.queries.data
        every = load_all(data, index_data(data), self.context.preprocess)
        at = [every.rows.index(row) for row in self.run.table("queries")["query_row"].to_pylist()]
        return Batch(
            every.x[at],
            every.labels[at],
            [every.rows[place] for place in at],
            [every.sample_ids[place] for place in at],
            [],
        )

    @cached_property
    def model(self) -> nn.Module:
        """The explained one, in float64."""
        store = open_store(self.manifest.store)
        module = load_module(self.context, MAIN, self.manifest.model, store, {})
        return module.double().eval()

    def kept(self, epoch: int) -> tuple[nn.Module, float]:
        """The model after an epoch, in float64, and the learning rate there."""
        store = open_store(self.manifest.store)
        trained = read_trained(store, self.context.model(MAIN).digest)
        assert trained is not None
        shape, classes = self.context.shape, self.context.num_classes
        spec = self.manifest.model
        module = load_kept(store, trained, epoch, spec, shape=shape, num_classes=classes)
        return module.double().eval(), trained.weights_after(epoch).lr

    def products(self, model: nn.Module | None = None, names: Any = None) -> tuple[Tensor, Tensor]:
        """Gradients of the training examples (n, p) and of the queries (q, p)."""
        model = model or self.model
        target = self.manifest.queries.target
        return (
            gradients(model, self.train.x, self.train.labels, names=names),
            gradients(model, self.queries.x, self.queries.labels, target, names),
        )

    def scores(self, method: str) -> np.ndarray:
        return score_matrix(self.run, method, self.train.rows)


def close(found: np.ndarray, wanted: Tensor, tolerance: float = 1e-5) -> None:
    """Equal relative to the largest magnitude."""
    expected = wanted.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
