"""The parts of a comparison: tables of differences and of likenesses, and what they leave out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gradattr.metrics.diffroar import interval
from gradattr.metrics.run_differences import RunDifference
from gradattr.report.results import Run

Row = dict[str, Any]

#: Columns of rows that say how a number of B differs from that of A.
DIFFERENCE = ("n", "a", "b", "difference", "low", "high", "p", "p_corrected")
#: Columns of rows that say how alike two things are.
LIKENESS = ("n", "mean", "low", "high")


@dataclass(frozen=True)
class Section:
    """One table of a comparison."""

    title: str
    kind: Literal["differences", "likeness"]
    names: tuple[str, ...]
    """Columns that say what a row is about."""
    rows: list[Row]
    """Each with its names and the columns DIFFERENCE or LIKENESS; None where there is no number."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"title": self.title, "kind": self.kind, "notes": self.notes, "rows": self.rows}


def difference_rows(
    names: Sequence[str], found: Mapping[tuple[Any, ...], RunDifference]
) -> list[Row]:
    """Rows of a section of differences, by the values of their names."""
    return [
        {**dict(zip(names, key, strict=True)), **_difference(one)} for key, one in found.items()
    ]


def _difference(one: RunDifference) -> Row:
    values = (one.n, one.a, one.b, one.mean, one.low, one.high, one.p, one.p_corrected)
    return {name: _json(value) for name, value in zip(DIFFERENCE, values, strict=True)}


def likeness_row(names: Mapping[str, Any], values: np.ndarray) -> Row:
    """The mean of values (n,), NaN where there is none, with Student's interval."""
    present = values[np.isfinite(values)]
    row: Row = {**names, **dict.fromkeys(LIKENESS), "n": len(present)}
    if len(present):
        found = interval(present.tolist())
        row |= {"mean": found.mean, "low": found.low, "high": found.high}
    return row


def _json(value: float | int) -> float | int | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def only_in_one(what: str, a: Sequence[Any], b: Sequence[Any]) -> list[str]:
    """A note that names what one run has alone; none where both have the same."""
    notes = []
    for own, others, run in ((a, b, "A"), (b, a, "B")):
        alone = [one for one in own if one not in others]
        if alone:
            named = ", ".join(str(one) for one in alone[:8]) + (", ..." if len(alone) > 8 else "")
            notes.append(f"Only in {run}, left out: {what} {named}")
    return notes


def counts_note(what: str, a: int, b: int, both: int) -> list[str]:
    """A note of how many are compared where not all are."""
    if a == b == both:
        return []
    return [
        f"{both} {what} are in both runs and compared; {a - both} only in A and {b - both} only in "
        "B are left out"
    ]


def literal(value: str | float) -> str:
    """A text or a number in SQL."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    # Not the bare digits, which SQL reads as a decimal number.
    return f"CAST('{value!r}' AS DOUBLE)"


def has_rows(run: Run, *tables: str) -> bool:
    """Whether a run has all these tables, and something in them."""
    return all(name in run.tables and run.commit.tables[name].rows for name in tables)
