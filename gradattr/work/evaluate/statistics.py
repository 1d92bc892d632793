"""The task that ends an evaluation: from every image's scores to means, differences and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradattr.errors import ShardError
from gradattr.metrics.comparisons import Difference, paired_differences, ranking
from gradattr.metrics.statistics import Summary, summaries
from gradattr.plan import Task
from gradattr.seeds import derive_seed
from gradattr.storage.objects import open_store
from gradattr.storage.parts import stage_records
from gradattr.storage.run_json import read_run
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import ShardRecord, ShardWriter
from gradattr.work.context import RunContext
from gradattr.work.evaluate.score_columns import (
    RUN_AGAIN,
    Numbers,
    Parts,
    aligned,
    drop_infinite,
    gather_agreement,
    gather_curves,
    gather_scores,
)

Row = dict[str, Any]

_NO_RANK: Row = {"mean_rank": None, "rank": None, "tied_with": None}


@dataclass
class Found:
    """Rows of the tables, and what was left out of them."""

    seed: int
    methods: Sequence[str]
    """In the order of the tables."""
    tables: dict[str, list[Row]] = field(
        default_factory=lambda: {
            name: [] for name in ("summary", "differences", "curves", "agreement")
        }
    )
    infinite: int = 0
    """Values that were infinite; they count as missing."""


def summarise_scores(context: RunContext, task: Task) -> dict[str, Any]:
    """Write ``summary``, ``differences``, ``curves`` and ``agreement`` from the records of
    ``payload["stage"]``.

    ``task.payload``: ``metrics`` [{metric, higher_is_better}], ``curves`` [{curve, x, labels}] and
    ``methods`` in the order of the tables, and whether there is ``agreement``. Labels of curves
    that the plan does not know stand in the records, under ``curve_labels``. The tables are a
    function of the scores as a set: neither shards nor the order of rows matter.

    ShardError: a record is missing, an image stands there twice, or there is something that the
    plan does not know.
    """
    store, payload = open_store(context.manifest.store), task.payload
    run = read_run(store, context.run_id)
    keys = [key for s in run["stages"] if s["name"] == payload["stage"] for key, _ in s["shards"]]
    records = stage_records(store, context.run_id, context.fingerprint, payload["stage"], keys)
    found = Found(context.manifest.seed, payload["methods"])
    add_scores(found, gather_scores(store, records), payload["metrics"])
    curves = [_labelled(curve, records) for curve in payload["curves"]]
    add_curves(found, gather_curves(store, records), curves)
    if payload["agreement"]:
        add_agreement(found, gather_agreement(store, records))
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    for name, rows in found.tables.items():
        columns = {column: [row[column] for row in rows] for column in table_schema(name).names}
        writer.append(name, make_table(name, columns))
    extra = {"rows": task.rows, "bad_rows": 0, "infinite": found.infinite}
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def _labelled(curve: Mapping[str, Any], records: Sequence[ShardRecord]) -> Row:
    """A curve of the plan, with labels of its steps where the plan has neither those nor places."""
    name = curve["curve"]
    said = (record.extra.get("curve_labels", {}).get(name) for record in records)
    labels = {tuple(names) for names in said if names}
    if curve["x"] or curve["labels"] or not labels:
        return dict(curve)
    if len(labels) > 1:
        raise ShardError(
            f"curve {name}: the steps have different names in different shards; {RUN_AGAIN}"
        )
    return {**curve, "labels": list(labels.pop())}


def add_scores(
    found: Found,
    scores: dict[str, dict[str, Parts]],
    metrics: Sequence[Mapping[str, Any]],
) -> None:
    """Rows of ``summary`` and ``differences``, metric by metric. A method without any row of a
    metric, to which it does not apply, takes no part in it. ``scores`` is emptied on the way."""
    _known("metric", scores, [metric["metric"] for metric in metrics])
    for metric in metrics:
        name = metric["metric"]
        columns = _columns(found, f"metric {name}", scores.pop(name, {}))
        seed = derive_seed(found.seed, "statistics", name)
        differences = paired_differences(columns, seed=seed)
        ranks = _ranks(columns, differences, metric["higher_is_better"])
        for method, summary in summaries(columns, seed=seed).items():
            head = {"method": method, **metric, "missing": summary.missing}
            found.tables["summary"].append(head | _mean(summary) | ranks.get(method, _NO_RANK))
        found.tables["differences"] += [
            {"metric": name, **_numbers(difference._asdict())} for difference in differences
        ]


def add_curves(
    found: Found,
    scores: dict[str, dict[str, Parts]],
    curves: Sequence[Mapping[str, Any]],
) -> None:
    """Rows of ``curves``, a step at a time. ``scores`` is emptied on the way."""
    _known("curve", scores, [curve["curve"] for curve in curves])
    for curve in curves:
        name, places = curve["curve"], curve["x"] or curve["labels"]
        columns = _columns(found, f"curve {name}", scores.pop(name, {}))
        lengths = {values.shape[1] for values in columns.values()} - {0}
        if len(lengths | ({len(places)} if places else set())) > 1:
            raise ShardError(
                f"curve {name}: has {' and '.join(map(str, sorted(lengths)))} steps, expected "
                f"{len(places) if places else 'one number of them'}; {RUN_AGAIN}"
            )
        steps = range(len(places) if places else next(iter(lengths), 0))
        by_step = {
            (method, step): values[:, step] if values.shape[1] else np.full(len(values), np.nan)
            for method, values in columns.items()
            for step in steps
        }
        seed = derive_seed(found.seed, "statistics", "curve", name)
        for (method, step), summary in summaries(by_step, seed=seed).items():
            place = {
                "x": curve["x"][step] if curve["x"] else None,
                "label": curve["labels"][step] if curve["labels"] else None,
            }
            row = {"method": method, "curve": name, "step": step, **place}
            found.tables["curves"].append(row | _mean(summary))


def add_agreement(found: Found, scores: Mapping[str, Mapping[tuple[str, str], Parts]]) -> None:
    """Rows of ``agreement``: pairs in alphabetical order, every measure of each."""
    rows: dict[tuple[tuple[str, str], str], Row] = {}
    for measure, parts in scores.items():
        _known("method", {method for pair in parts for method in pair}, found.methods)
        columns = aligned(f"agreement {measure}", parts)
        found.infinite += drop_infinite(columns)
        seed = derive_seed(found.seed, "statistics", "agreement", measure)
        for pair, summary in summaries(columns, seed=seed).items():
            head = {"first": pair[0], "second": pair[1], "measure": measure}
            rows[pair, measure] = head | _mean(summary)
    order = sorted({pair for pair, _ in rows})
    found.tables["agreement"] += [rows[pair, measure] for pair in order for measure in scores]


def _columns(found: Found, what: str, parts: Mapping[str, Parts]) -> dict[str, Numbers]:
    """By method, in the order of the tables; aligned by image."""
    _known("method", parts, found.methods)
    columns = aligned(what, parts)
    found.infinite += drop_infinite(columns)
    return {method: columns[method] for method in found.methods if method in columns}


def _ranks(
    columns: Mapping[str, Numbers], differences: Sequence[Difference], higher: bool | None
) -> dict[str, Row]:
    """Of each method that has a value at all; others have no place, and are tied with none."""
    if higher is None:
        return {}
    present = {method: c for method, c in columns.items() if not np.isnan(c).all()}
    between = [one for one in differences if {one.first, one.second} <= present.keys()]
    return {
        one.method: {
            "mean_rank": _number(one.mean_rank),
            "rank": one.rank,
            "tied_with": list(one.tied_with),
        }
        for one in ranking(present, between, higher_is_better=higher)
    }


def _mean(summary: Summary) -> Row:
    return {
        name: value
        for name, value in _numbers(summary._asdict()).items()
        if name in ("n", "mean", "sd", "low", "high")
    }


def _numbers(row: Mapping[str, Any]) -> Row:
    return {name: _number(value) for name, value in row.items()}


def _number(value: Any) -> Any:
    """NaN is null in tables."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _known(what: str, names: Iterable[str], planned: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(planned))
    if unknown:
        raise ShardError(
            f"{what} {', '.join(unknown)}: is in the records and not in the plan, which has "
            f"{', '.join(planned) or 'none'}; {RUN_AGAIN}"
        )
