"""The task that ends a run: how faithful each estimate is, over all prompts."""

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

PATCH_STAGE, FAITHFULNESS_STAGE = "patch", "faithfulness"

_MEASURES = ("l2", "relative_l2", "spearman")


def summarise_faithfulness(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``faithfulness`` from ``patching_agreement`` of all patching tasks."""
    store = open_store(context.manifest.store)
    cells: dict[tuple[str, str, str], list[float]] = {}
    run_json = read_run(store, context.run_id)
    for _, table in read_stage(store, run_json, PATCH_STAGE, "patching_agreement"):
        for row in table.to_pylist():
            for measure in _MEASURES:
                found = cells.setdefault((row["baseline"], row["method"], measure), [])
                if row[measure] is not None:
                    found.append(row[measure])
    rows = []
    for (baseline, method, measure), values in cells.items():
        if values:
            mean = interval(values)
            cell = {"baseline": baseline, "method": method, "measure": measure, "n": mean.n}
            numbers = {"mean": mean.mean, "sd": mean.sd, "low": mean.low, "high": mean.high}
            rows.append(cell | numbers)
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    names = table_schema("faithfulness").names
    if rows:
        columns = {name: [row[name] for row in rows] for name in names}
        writer.append("faithfulness", make_table("faithfulness", columns))
    extra = {"rows": task.rows, "bad_rows": 0, "cells": len(rows)}
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra
