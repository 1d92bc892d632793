"""The task that answers a block of queries through the index of another run: rank by sketches,
score the best candidates of both sides exactly, leave the rest of the training data alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gradattr.errors import IntegrityError, ShardError
from gradattr.manifest.scores import GradientScore, score_id
from gradattr.manifest.tfa import Index
from gradattr.plan import Task
from gradattr.storage.commit import Commit, read_commit
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.parts import read_files
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import MAIN, RunContext
from gradattr.work.tfa.index import index_parts, rank
from gradattr.work.tfa.layout import TRAIN_DATA, blocks
from gradattr.work.tfa.loaded import Loaded, images_at_once, load_for
from gradattr.work.tfa.query_directions import QueryDirections, direction_groups
from gradattr.work.tfa.query_set import picked, query_set
from gradattr.work.tfa.score_batch import score_batch, sketcher


def look_up(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``tda_extremes`` of the block ``task.payload['block']``: exact scores of the
    candidates that the index ``payload['index']`` of the run ``payload['run']`` proposes."""
    manifest = context.tfa_manifest
    loaded = load_for(context)
    store = open_store(manifest.store)
    commit = _commit(store, task, loaded)
    index = Index.model_validate(task.payload["index"])
    queries = query_set(context).within(blocks(manifest)[task.payload["block"]])
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    scored = 0
    for group in direction_groups(context, loaded, queries):
        wanted = _candidates(context, loaded, store, commit, index, group)
        rows = sorted(set().union(*wanted.values()))
        scored += len(rows)
        for table in _exact(context, loaded, group, wanted, rows):
            writer.append("tda_extremes", table)
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "scored": scored,
        "models": loaded.digests,
        "gradients": loaded.products.report,
        "device": loaded.device.type,
        "torch": torch.__version__,
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _commit(store: ObjectStore, task: Task, loaded: Loaded) -> Commit:
    """The run with the index. IntegrityError if it is not what was planned, or if its sketches are
    of other weights."""
    commit = read_commit(store, task.payload["run"])
    sketched = {
        record.extra["models"][MAIN] for record in commit.records if "sketches" in record.tables
    }
    planned = task.payload["fingerprint"]
    if commit.fingerprint != planned or sketched - {loaded.digests[MAIN]}:
        raise IntegrityError(
            f"index_of: run {commit.run_id} is not the one that was planned with, or its index was "
            "built with other weights; build the index again and run the same command"
        )
    return commit


def _candidates(
    context: RunContext,
    loaded: Loaded,
    store: ObjectStore,
    commit: Commit,
    index: Index,
    queries: QueryDirections,
) -> dict[tuple[str, int], set[int]]:
    """(score id, place of the query) -> rows of the training data to be scored exactly."""
    wanted = {}
    for score in context.tfa_manifest.scores:
        assert isinstance(score, GradientScore)
        rankings = rank(
            queries,
            sketcher(loaded, index),
            score,
            index_parts(_sketches(store, commit), loaded.device),
            index.candidates,
            loaded.device,
        )
        for at in range(len(queries)):
            found = {row for ranking in rankings for row in ranking.rows[at].tolist()}
            wanted[score_id(score), at] = found
    return wanted


def _sketches(store: ObjectStore, commit: Commit) -> Iterator[pa.Table]:
    """The index's files. IntegrityError says how another run's files are mended from here."""
    files = [(commit.run_id, file) for file in commit.tables["sketches"].files]
    try:
        yield from read_files(store, files)
    except (ShardError, IntegrityError) as error:
        what = str(error).partition("; run the same")[0].partition("; delete it")[0]
        url = store.url(RunPaths(commit.run_id).commit)
        raise IntegrityError(
            f"index_of: the index of run {commit.run_id} is damaged: {what}. Delete that file and "
            f"{url}, run the manifest of that run again, then this command"
        ) from error


def _exact(
    context: RunContext,
    loaded: Loaded,
    queries: QueryDirections,
    wanted: dict[tuple[str, int], set[int]],
    rows: list[int],
) -> Iterator[pa.Table]:
    """Exact scores of each query's own candidates, whatever others of its block asked for."""
    at_once = images_at_once(context)
    for first in range(0, len(rows), at_once):
        batch = picked(
            context, context.tfa_manifest.data, TRAIN_DATA, rows[first : first + at_once]
        )
        scored = score_batch(context, loaded, queries, batch)
        for method, values in scored.values.items():
            for at, query in enumerate(queries.rows):
                own = [n for n, row in enumerate(batch.rows) if row in wanted[method, at]]
                columns = {
                    "query": [query["query"]] * len(own),
                    "train_row": [batch.rows[n] for n in own],
                    "train_id": [batch.sample_ids[n] for n in own],
                    "train_label": batch.labels.numpy()[own].astype(np.int32),
                    "method": [method] * len(own),
                    "score": values[own, at],
                }
                if own:
                    yield make_table("tda_extremes", columns, table_schema("tda_extremes"))
