"""The number that a check looks at, read from a committed run's tables."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from gradattr.errors import QueryError
from gradattr.manifest.check_base import CheckBase, SampledCheck, SummarisedCheck
from gradattr.manifest.checks import DiffRoarCheck, SqlCheck, SummaryCheck, TrainingCheck
from gradattr.metrics.diffroar import interval
from gradattr.metrics.statistics import Summary
from gradattr.report.summarised import Summarised

#: Measures that are no columns.
_COMPUTED = {
    "accuracy": "CAST(correct AS DOUBLE)",
    "not_ok": "CAST(status <> 'ok' AS DOUBLE)",
}


class CheckedNumber(NamedTuple):
    """What a run has for a check."""

    found: Summary | None
    """The number is its ``mean``, whatever statistic it is. None: there is none."""
    problem: str
    """Why there is none."""
    higher_is_better: bool | None
    """As the number's meaning, its table, or the check itself tells."""


def checked_number(run: Summarised, check: CheckBase) -> CheckedNumber:
    """The number of ``run`` that ``check`` looks at. Raises StoreError if the store cannot be
    read; SQL that cannot be answered is a number that is not there."""
    better = check.known_better
    better = check.higher_is_better if better is None else better
    if isinstance(check, SqlCheck):
        return _of_sql(run, check, better)
    if check.table not in run.tables:
        return CheckedNumber(None, f"the run has no table '{check.table}'", better)
    if isinstance(check, TrainingCheck):
        text = f'arg_max("{check.measure}", epoch) AS value, count(*) AS n'
        return _only_row(check, _select(run, check, text), better)
    if isinstance(check, SampledCheck):
        return _of_samples(run, check, better)
    assert isinstance(check, SummarisedCheck)
    told = ", higher_is_better" if isinstance(check, SummaryCheck) else ""
    rows = _select(run, check, f'"{check.column}" AS value, n, low, high{told}')
    if told and check.known_better is None:
        tells = [row["higher_is_better"] for row in rows if row["higher_is_better"] is not None]
        better = tells[0] if tells else better
    return _only_row(check, rows, better)


def _select(run: Summarised, check: CheckBase, columns: str) -> list[dict[str, Any]]:
    return run.sql(f"SELECT {columns} {_from(run, check)}").to_pylist()


def _from(run: Summarised, check: CheckBase) -> str:
    """The check's rows of its table."""
    rows = dict(check.rows)
    if isinstance(check, DiffRoarCheck) and check.variant is None:
        rows["variant"] = "no_retrain" if run.manifest.get("retrain") is False else "retrain"
    where = " AND ".join(f'"{key}" = {_literal(value)}' for key, value in rows.items())
    return f'FROM "{check.table}"' + (f" WHERE {where}" if where else "")


def _literal(value: object) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    # Not the bare digits, which SQL reads as a decimal number, and not as the nearest double.
    return f"CAST('{value!r}' AS DOUBLE)"


def _only_row(check: CheckBase, rows: list[dict[str, Any]], better: bool | None) -> CheckedNumber:
    named = ", ".join(f"{key} {value}" for key, value in check.rows.items())
    if not rows or not rows[0]["n"]:
        return CheckedNumber(None, f"table '{check.table}' has no row of {named}", better)
    if len(rows) > 1:
        also = "; name its learner" if check.table == "diffroar" else ""
        problem = f"table '{check.table}' has {len(rows)} rows of {named}{also}"
        return CheckedNumber(None, problem, better)
    (row,) = rows
    ends = (row["low"], row["high"]) if check.is_mean else (None, None)
    low, high = (_number(end) for end in ends)
    found = Summary(row["n"], 0, _number(row["value"]), math.nan, low, high)
    return CheckedNumber(found, "", better)


def _of_samples(run: Summarised, check: SampledCheck, better: bool | None) -> CheckedNumber:
    column = _COMPUTED.get(check.measure, f'CAST("{check.measure}" AS DOUBLE)')
    # Not aggregated by SQL, which stops at a standard deviation of infinite values.
    column_values = run.sql(f"SELECT {column} AS value {_from(run, check)}")["value"]
    values = column_values.drop_null().to_numpy().astype(np.float64)
    if not len(values):
        every = len(column_values)
        problem = f"none of {every} rows has a value" if every else "there are no such rows"
        return CheckedNumber(None, f"table '{check.table}': {problem}", better)
    missing = len(column_values) - len(values)
    return CheckedNumber(_statistic(values, check.statistic, missing), "", better)


def _statistic(values: np.ndarray, statistic: str, missing: int) -> Summary:
    n, nan = len(values), math.nan
    if not np.isfinite(values).all():
        # No number passes for one that is infinite or not a number.
        return Summary(n, missing, nan, nan, nan, nan)
    if statistic in ("median", "minimum", "maximum"):
        share = {"minimum": 0.0, "median": 0.5, "maximum": 1.0}[statistic]
        return Summary(n, missing, float(np.quantile(values, share)), nan, nan, nan)
    spread = interval(values.tolist())
    low, high, sd = (_number(one) for one in (spread.low, spread.high, spread.sd))
    if statistic == "mean":
        return Summary(n, missing, spread.mean, sd, low, high)
    return Summary(n, missing, low if statistic == "low" else high, nan, nan, nan)


def _of_sql(run: Summarised, check: SqlCheck, better: bool | None) -> CheckedNumber:
    try:
        answer = run.sql(check.sql)
    except QueryError as error:
        return CheckedNumber(None, str(error).splitlines()[0], better)
    if answer.num_columns != 1 or answer.num_rows != 1:
        problem = (
            f"the SELECT answers {answer.num_rows} rows of {answer.num_columns} columns; expected "
            "one number"
        )
        return CheckedNumber(None, problem, better)
    value = answer.column(0)[0].as_py()
    if value is None:
        return CheckedNumber(None, "the SELECT answers null", better)
    if not isinstance(value, int | float | Decimal):
        problem = f"the SELECT answers {type(value).__name__} {value!r}; expected a number"
        return CheckedNumber(None, problem, better)
    nan = math.nan
    return CheckedNumber(Summary(1, 0, _number(value), nan, nan, nan), "", better)


def _number(value: Any) -> float:
    """NaN for what is not there, and for what is not finite: neither passes a check."""
    found = math.nan if value is None else float(value)
    return found if math.isfinite(found) else math.nan
