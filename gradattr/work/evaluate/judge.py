"""The task that judges one shard: read, attribute (or read another run's maps), measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.data.types import Batch, RowError, ShardRef
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.metrics import AgreementMetric, AnyMetric, measures_of, metric_id
from gradattr.metrics.method_agreement import method_agreement
from gradattr.plan import Task
from gradattr.seeds import derive_seed
from gradattr.storage.objects import open_store
from gradattr.storage.shards import ShardWriter
from gradattr.work.attribute.batch import attributions_of, batches_of, images_at_once
from gradattr.work.attribute.loaded import Loaded, load_for
from gradattr.work.attribute.rows import Group, ShardRows
from gradattr.work.attribute.shard import precision_agreement, shard_extra
from gradattr.work.context import RunContext, method_id
from gradattr.work.evaluate.judging import applies, judge
from gradattr.work.evaluate.precision_change import PrecisionChanges
from gradattr.work.evaluate.rows import ScoreRows
from gradattr.work.evaluate.stored_maps import StoredMaps, stored_maps
from gradattr.work.evaluate.subject import Judged, Subject, joined, subjects_of


def judge_shard(context: RunContext, task: Task) -> dict[str, Any]:
    """Judge the maps of ``task.payload['shard']`` by every metric; write the shard's files and its
    record; return the record's ``extra``.

    ``payload['rows']``: rows of the whole data set, which a metric's images are drawn from.
    """
    manifest = context.evaluate_manifest
    shard = ShardRef.from_json(task.payload["shard"])
    loaded = load_for(context)
    store = open_store(manifest.store)
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    rows = ShardRows(writer, manifest, context.shape)
    shard_judge = _ShardJudge(context, loaded, writer, task.payload["rows"])
    known = stored_maps(context, task, store)
    compared: dict[str, Any] | None = None
    for batch in batches_of(context, shard):
        rows.add_errors(batch.errors, predictions_only=known is not None)
        shard_judge.add_errors(batch.errors)
        if len(batch) == 0:
            continue
        groups = _groups(context, loaded, known, batch)
        if known is None and compared is None and loaded.reference is not None:
            compared = precision_agreement(loaded, batch, manifest.seed)
        rows.add_batch(batch, groups, predictions_only=known is not None)
        shard_judge.add_batch(batch, groups)
    shard_judge.finish()
    extra = shard_extra(rows, loaded, compared) | shard_judge.extra()
    writer.finish(rows=shard.rows, row_ids=rows.row_ids, extra=extra)
    return extra


def images_of(manifest: EvaluateManifest, metric: AnyMetric, rows: int) -> frozenset[int] | None:
    """Numbers of the rows that a metric looks at; None: all of them."""
    if metric.images is None or metric.images >= rows:
        return None
    # By their number alone, so that metrics with as many images look at the same ones.
    random = np.random.default_rng(derive_seed(manifest.seed, "images of a metric", rows))
    return frozenset(random.permutation(rows)[: metric.images].tolist())


def _groups(
    context: RunContext, loaded: Loaded, known: StoredMaps | None, batch: Batch
) -> Sequence[Group]:
    if known is not None:
        return known.groups(loaded, batch)
    return attributions_of(loaded, batch, context.attribute_manifest.seed)


class _ShardJudge:
    """Applies every metric to the batches of a shard."""

    def __init__(self, context: RunContext, loaded: Loaded, writer: ShardWriter, rows: int) -> None:
        self._context, self._loaded = context, loaded
        self._manifest = context.evaluate_manifest
        self._rows = ScoreRows(writer)
        self._images = {
            metric_id(metric): images_of(self._manifest, metric, rows)
            for metric in self._manifest.metrics
        }
        #: Chosen images of metrics that do not look at all of them, until there is a batch of them:
        #: a few at a time would waste most of a micro-batch.
        self._waiting: dict[tuple[str, tuple[str, ...]], list[Subject]] = {}
        self._at_once = images_at_once(context)
        self._labels: dict[str, tuple[str, ...]] = {}
        self._changes = PrecisionChanges()

    def add_errors(self, errors: Sequence[RowError]) -> None:
        """Images that could not be read: rows without a value."""
        self._missing([(e.row, e.sample_id, e.status) for e in errors], self._all_methods())

    def add_batch(self, batch: Batch, groups: Sequence[Group]) -> None:
        """Judge a batch's maps; methods without a map of an image lacked its label."""
        for subject in subjects_of(self._context, self._loaded, batch, groups):
            for metric in self._manifest.metrics:
                if not isinstance(metric, AgreementMetric):
                    self._take(metric, subject)
        for metric in self._manifest.metrics:
            if isinstance(metric, AgreementMetric):
                self._agreement(metric, batch, groups)
        explained = {a.method: set(group.positions) for group in groups for a in group.attributions}
        for number, method in enumerate(self._manifest.methods):
            positions = explained.get(method_id(method), set())
            lacking = [i for i in range(len(batch)) if i not in positions]
            keys = [(batch.rows[i], batch.sample_ids[i], "label_error") for i in lacking]
            self._missing(keys, [number])

    def finish(self) -> None:
        """Judge the images that are still waiting."""
        for metric in self._manifest.metrics:
            for key in [key for key in self._waiting if key[0] == metric_id(metric)]:
                self._judge(metric, joined(self._waiting.pop(key)))

    def extra(self) -> dict[str, Any]:
        """What the record says of the metrics."""
        return {
            "undefined": {name: n for name, n in sorted(self._rows.undefined.items()) if n},
            "curve_labels": {name: list(labels) for name, labels in sorted(self._labels.items())},
            "precision_change": self._changes.to_json(),
        }

    def _take(self, metric: AnyMetric, subject: Subject) -> None:
        """Judge the metric's images of a batch, now or when there are enough of them."""
        images = self._images[metric_id(metric)]
        if images is None:
            self._judge(metric, subject)
            return
        chosen = subject.at([at for at, row in enumerate(subject.rows) if row in images])
        if not chosen.rows:
            return
        key = (metric_id(metric), tuple(request.id for request in subject.requests))
        waiting = self._waiting.setdefault(key, [])
        waiting.append(chosen)
        if sum(len(part.rows) for part in waiting) >= self._at_once:
            self._judge(metric, joined(self._waiting.pop(key)))

    def _judge(self, metric: AnyMetric, subject: Subject) -> None:
        numbers = [
            number
            for number, (method, request) in enumerate(
                zip(subject.methods, subject.requests, strict=True)
            )
            if applies(metric, method, request)
        ]
        if not numbers:
            return
        subject = subject.of(numbers)

        def at(batch_size: int) -> Judged:
            self._loaded.batch_size = batch_size
            return judge(metric, subject)

        judged, self._loaded.batch_size = halve_on_oom(at, self._loaded.batch_size)
        self._rows.add(metric, subject, judged)
        self._changes.add(metric, subject, judged)
        self._labels |= {
            f"{metric_id(metric)}_{name}": labels for name, labels in judged.labels.items()
        }

    def _agreement(self, metric: AgreementMetric, batch: Batch, groups: Sequence[Group]) -> None:
        """Of the images that every method has a map of."""
        images = self._images[metric_id(metric)]
        shared = [
            at
            for at, row in enumerate(batch.rows)
            if (images is None or row in images) and all(at in g.positions for g in groups)
        ]
        if not shared:
            return
        names, maps = [], []
        for group in groups:
            places = torch.tensor([group.positions.index(at) for at in shared])
            for result in group.attributions:
                names.append(result.method)
                bad = torch.tensor([result.status[i] != "ok" for i in places.tolist()])
                chosen = result.maps.detach().cpu()[places]
                maps.append(chosen.masked_fill(bad.view(-1, 1, 1, 1), torch.nan))
        if len(names) < len(self._manifest.methods):
            return
        self._rows.add_agreement(
            [batch.rows[at] for at in shared],
            [batch.sample_ids[at] for at in shared],
            names,
            method_agreement(maps, top=metric.top),
        )

    def _missing(self, keys: Sequence[tuple[int, str, str]], methods: Sequence[int]) -> None:
        for metric in self._manifest.metrics:
            images = self._images[metric_id(metric)]
            chosen = [key for key in keys if images is None or key[0] in images]
            if not chosen:
                continue
            names = [one.name for one in measures_of(metric)]
            for number in methods:
                method = self._manifest.methods[number]
                if applies(metric, method, self._loaded.requests[number]):
                    self._rows.add_missing(names, method_id(method), chosen)

    def _all_methods(self) -> Sequence[int]:
        return range(len(self._manifest.methods))
