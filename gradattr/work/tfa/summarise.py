"""The task that ends a run with insertion tests: each test over all pairs."""

from __future__ import annotations

from typing import Any

from gradattr.metrics.diffroar import interval
from gradattr.plan import Task
from gradattr.storage.objects import open_store
from gradattr.storage.reader import read_stage
from gradattr.storage.run_json import read_run
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.tfa.layout import MAP_STAGE

_CELL = ("method", "side", "map_method", "test", "steps", "level")


def summarise_tests(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``tfa_summary`` from ``tfa_insertion`` of all mapping tasks."""
    store = open_store(context.manifest.store)
    cells: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    columns = [*_CELL, "top", "random"]
    for _, table in read_stage(store, read_run(store, context.run_id), MAP_STAGE, "tfa_insertion"):
        values = [table[name].to_pylist() for name in columns]
        for *cell, top, random in zip(*values, strict=True):
            cells.setdefault(tuple(cell), []).append((top, random))
    rows = [dict(zip(_CELL, cell, strict=True)) | _numbers(found) for cell, found in cells.items()]
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    names = table_schema("tfa_summary").names
    writer.append(
        "tfa_summary", make_table("tfa_summary", {n: [row[n] for row in rows] for n in names})
    )
    extra = {"rows": task.rows, "bad_rows": 0, "cells": len(rows)}
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _numbers(found: list[tuple[float, float]]) -> dict[str, Any]:
    """Means over pairs, and the paired difference with its interval."""
    difference = interval([top - random for top, random in found])
    return {
        "n": difference.n,
        "top": interval([top for top, _ in found]).mean,
        "random": interval([random for _, random in found]).mean,
        "difference": difference.mean,
        "sd": difference.sd,
        "low": difference.low,
        "high": difference.high,
    }
