"""Numbers of the same samples in two runs, brought into one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gradattr.metrics.run_differences import finite, paired_by_image
from gradattr.report.compare.sections import (
    Row,
    Section,
    counts_note,
    difference_rows,
    has_rows,
    literal,
    only_in_one,
)
from gradattr.report.results import Run

#: Of the table predictions: what is compared -> SQL.
_PREDICTIONS = {
    "accuracy": "CAST(correct AS DOUBLE)",
    "confidence": "CAST(confidence AS DOUBLE)",
    "loss": "CAST(loss AS DOUBLE)",
}


#: Values of the columns that choose rows: texts and levels.
_Key = tuple[Any, ...]


def common_samples(a: pa.Table, b: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the samples that both tables have, in one order. Both have a column
    sample_id, in which no id stands twice."""
    mine, theirs = (
        table["sample_id"].to_numpy(zero_copy_only=False).astype(str) for table in (a, b)
    )
    _, first, second = np.intersect1d(mine, theirs, assume_unique=True, return_indices=True)
    order = np.argsort(first, kind="stable")
    return first[order], second[order]


def column(table: pa.Table, name: str, rows: np.ndarray) -> np.ndarray:
    """float64 values of these rows; NaN where there is none, or an infinite one."""
    values = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return finite(values[rows])


def compare_predictions(a: Run, b: Run) -> list[Section]:
    """Accuracy, confidence and loss over the same samples, and how many are taken for another
    class."""
    if not (has_rows(a, "predictions") and has_rows(b, "predictions")):
        return []
    columns = ", ".join(f"{text} AS {name}" for name, text in _PREDICTIONS.items())
    sql = f'SELECT sample_id, predicted, {columns} FROM predictions ORDER BY "row"'
    tables = (a.sql(sql), b.sql(sql))
    rows = common_samples(*tables)
    values = {
        (name,): tuple(column(table, name, own) for table, own in zip(tables, rows, strict=True))
        for name in _PREDICTIONS
    }
    found = paired_by_image({key: (one[0], one[1]) for key, one in values.items()})
    said = [column(table, "predicted", own) for table, own in zip(tables, rows, strict=True)]
    judged = ~np.isnan(said[0]) & ~np.isnan(said[1])
    changed = int((said[0] != said[1])[judged].sum())
    notes = [f"{changed} of {int(judged.sum())} images are taken for another class"]
    notes += counts_note("images", tables[0].num_rows, tables[1].num_rows, len(rows[0]))
    kept = {key: one for key, one in found.items() if one.n}
    return [
        Section(
            "What the model says",
            "differences",
            ("measure",),
            difference_rows(("measure",), kept),
            notes,
        )
    ]


def compare_long_table(
    a: Run,
    b: Run,
    table: str,
    title: str,
    *,
    by: Sequence[str],
    measures: Sequence[str] | None = None,
) -> list[Section]:
    """A table with a row per sample and the columns ``by``: every number that both runs have,
    paired by sample. ``measures``: the columns with numbers; None: the column 'value'.

    Read one combination of ``by`` at a time, so that a large run need not fit into memory.
    """
    if not (has_rows(a, table) and has_rows(b, table)):
        return []
    every = [_combinations(run, table, by) for run in (a, b)]
    values: dict[_Key, tuple[np.ndarray, np.ndarray]] = {}
    counts: dict[tuple[int, int, int], int] = {}
    for key in every[0]:
        if key not in every[1]:
            continue
        found = [_samples(run, table, by, key, measures) for run in (a, b)]
        rows = common_samples(*found)
        count = (found[0].num_rows, found[1].num_rows, len(rows[0]))
        counts[count] = counts.get(count, 0) + 1
        for name in measures or ("value",):
            both = [column(one, name, own) for one, own in zip(found, rows, strict=True)]
            if np.isfinite(both[0]).any() and np.isfinite(both[1]).any():
                values[(*key, name) if measures else key] = (both[0], both[1])
    names = (*by, "measure") if measures else tuple(by)
    differences = paired_by_image(values)
    notes = [note for count in counts for note in counts_note("samples", *count)]
    combined = [[" of ".join(map(str, reversed(key))) for key in one] for one in every]
    notes += only_in_one("rows of", *combined)
    listed: list[Row] = difference_rows(names, differences)
    return [Section(title, "differences", names, listed, list(dict.fromkeys(notes)))]


def _combinations(run: Run, table: str, by: Sequence[str]) -> list[_Key]:
    columns = ", ".join(by)
    found = run.sql(f"SELECT DISTINCT {columns} FROM {table} ORDER BY {columns}")
    places = {method: place for place, method in enumerate(run.methods)}
    rows = sorted(
        found.to_pylist(),
        key=lambda row: [places.get(row[k], -1) if k == "method" else row[k] for k in by],
    )
    return [tuple(row[name] for name in by) for row in rows]


def _samples(
    run: Run, table: str, by: Sequence[str], key: _Key, measures: Sequence[str] | None
) -> pa.Table:
    columns = ", ".join(f"CAST({name} AS DOUBLE) AS {name}" for name in measures or ("value",))
    where = " AND ".join(f"{n} = {literal(v)}" for n, v in zip(by, key, strict=True))
    return run.sql(f'SELECT sample_id, {columns} FROM {table} WHERE {where} ORDER BY "row"')
