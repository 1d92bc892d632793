"""Checks carried out on a committed run: one verdict for each thing that a check asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gradattr.errors import GradattrError, StoreError
from gradattr.manifest.check_base import CheckBase
from gradattr.manifest.checks import SqlCheck, SummaryCheck
from gradattr.metrics.checks import (
    Check,
    NotWorse,
    NumberName,
    Verdict,
    judge,
    judge_not_worse,
    nothing_earlier,
)
from gradattr.metrics.statistics import Summary
from gradattr.report.checked_numbers import CheckedNumber, checked_number
from gradattr.report.results import Run
from gradattr.storage.audits import audit_jobs
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import read_run
from gradattr.storage.runs import run_before

#: Corrected p below which two methods are told apart, as in the table 'summary'.
ALPHA = 0.05


def check_run(
    run: Run,
    checks: Sequence[CheckBase],
    store: ObjectStore | None = None,
    *,
    last: str | None = None,
) -> list[Verdict]:
    """The verdicts on ``checks``, in their order; of each check one for every bound, and for each
    comparison. ``store``: where earlier runs are looked for, by default the run's own. ``last``:
    id of the run that 'last' means, by default the last of this name that was committed before.

    What is not there fails; so does SQL that cannot be answered. Raises StoreError.
    """
    earlier = _EarlierRuns(run, store or run.store, last)
    found = []
    for check in checks:
        number = checked_number(run, check)
        verdicts = [_bound(check, number, op, bound) for op, bound in check.bounds]
        if isinstance(check, SummaryCheck) and check.better_than is not None:
            verdicts.append(_better(run, check, number, check.better_than))
        if check.not_worse_than is not None:
            verdicts.append(_not_worse(check, number, earlier))
        found += [_called(check, verdict) for verdict in verdicts]
    return found


def check_with_jobs(run: Run, asked: Mapping[str, Sequence[CheckBase]]) -> list[Verdict]:
    """The verdicts on a run's own checks (under the name '') and, of an audit, on those of its
    jobs by name: those of a job begin with it. A job's 'last' run is the same job of the audit's
    last run, also where that is the very run that this audit has."""
    found = check_run(run, asked.get("", ()))
    earlier = _jobs_before(run, [check for name, part in asked.items() if name for check in part])
    for job in audit_jobs({"manifest": run.manifest, "inputs": run.inputs}):
        checks = asked.get(job.job, ())
        if checks:
            opened = Run(run.store, job.run_id)
            verdicts = check_run(opened, checks, last=earlier.get(job.job))
            found += [
                one._replace(check=f"{job.job}: {one.check}", group=f"{job.job}.{one.group}")
                for one in verdicts
            ]
    return found


def _jobs_before(run: Run, checks: Sequence[CheckBase]) -> dict[str, str]:
    """Run ids of the jobs of the audit's last run; none if it has none, or nobody asks."""
    if not any(check.not_worse_than == "last" for check in checks):
        return {}
    before = run_before(run.store, run.run_id)
    if before is None:
        return {}
    return {job.job: job.run_id for job in audit_jobs(read_run(run.store, before))}


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """JSON of a verdict; ``value`` is null where there is no number."""
    value = None if math.isnan(verdict.value) else verdict.value
    return {**verdict._asdict(), "value": value}


def _called(check: CheckBase, verdict: Verdict) -> Verdict:
    """Under the check's own name, if it has one (which that of SQL begins with anyway)."""
    if check.name is None or isinstance(check, SqlCheck):
        return verdict
    return verdict._replace(check=f"{check.name}: {verdict.check}")


def _bound(check: CheckBase, number: CheckedNumber, op: Any, bound: float) -> Verdict:
    asked = Check(*check.number, op=op, bound=bound)
    if number.found is None:
        verdict = judge(asked, {})
        return verdict._replace(text=f"{verdict.text}: {number.problem}")
    return judge(asked, {asked.name: number.found.mean})


def _better(run: Run, check: SummaryCheck, number: CheckedNumber, other: str) -> Verdict:
    """Whether a method is told apart from another one, and on the better side."""
    name = f"{check.metric} of {check.method} better than {other}'s (corrected p < {ALPHA:g})"

    def verdict(passed: bool, value: float, text: str) -> Verdict:
        return Verdict(name, check.metric, passed, value, text)

    if "differences" not in run.tables:
        return verdict(False, math.nan, "the run has no table 'differences'")
    pair = {check.method, other}
    rows = [
        row
        for row in run.table("differences").to_pylist()
        if row["metric"] == check.metric and {row["first"], row["second"]} == pair
    ]
    if not rows or rows[0]["mean"] is None or rows[0]["p_corrected"] is None:
        text = f"there is no difference in {check.metric} between {check.method} and {other}"
        return verdict(False, math.nan, text)
    if number.higher_is_better is None:
        return verdict(False, math.nan, f"of {check.metric} neither direction is better")
    (row,) = rows
    sign = 1 if row["first"] == check.method else -1
    ends = sorted(sign * end for end in (row["low"], row["high"]) if end is not None)
    shown = f" [{ends[0]:+.6g}, {ends[1]:+.6g}]" if len(ends) == 2 else ""
    value, p = sign * row["mean"], row["p_corrected"]
    on_side = value > 0 if number.higher_is_better else value < 0
    passed = bool(on_side and p < ALPHA)
    side = "higher" if number.higher_is_better else "lower"
    why = "" if passed else "; it is on the worse side" if not on_side else "; it may be chance"
    text = (
        f"{check.method} - {other} is {value:+.6g}{shown} over {row['n']} images, corrected p "
        f"{p:.3g}; {side} is better{why}"
    )
    return verdict(passed, value, text)


def _not_worse(check: CheckBase, number: CheckedNumber, earlier: _EarlierRuns) -> Verdict:
    metric, whom, statistic = check.number
    better = number.higher_is_better
    asked = NotWorse(metric, whom, check.by, better is not False, check.by_interval, statistic)
    name = str(asked) if better is not None else f"{asked.metric} not worse than earlier"
    if better is None:
        text = f"nothing tells which way {metric} is worse; state higher_is_better"
        if number.found is None:
            text = f"there is no number {NumberName(*check.number)}: {number.problem}"
        return Verdict(name, metric, False, math.nan, text)
    if number.found is None:
        text = f"there is no number {NumberName(*check.number)}: {number.problem}"
        return Verdict(name, metric, False, math.nan, text)
    which = str(check.not_worse_than)
    then, found = earlier.number(check, which)
    if then is None:
        text = f"there is no earlier run of '{earlier.name}' in this store to compare with yet"
        return nothing_earlier(asked, number.found, text)
    if isinstance(found, str):
        return Verdict(name, metric, False, math.nan, f"earlier run {then}: {found}")
    verdict = judge_not_worse(asked, number.found, found)
    return verdict._replace(text=f"{verdict.text} (earlier run {then})")


class _EarlierRuns:
    """Runs that this one is compared with, opened when they are first asked for."""

    def __init__(self, run: Run, store: ObjectStore, last: str | None) -> None:
        self._run, self._store = run, store
        self._last, self._looked = last, last is not None
        self._opened: dict[str, Run | str] = {}

    @property
    def name(self) -> str:
        return str(self._run.manifest["name"])

    def number(self, check: CheckBase, which: str) -> tuple[str | None, Summary | str]:
        """Id of the earlier run, None if there is none; and its number, or why it has none."""
        run_id = self._before() if which == "last" else which.removeprefix("run:")
        if run_id is None:
            return None, ""
        run = self._open(run_id)
        if isinstance(run, str):
            return run_id, run
        number = checked_number(run, check)
        return run_id, number.problem if number.found is None else number.found

    def _before(self) -> str | None:
        if not self._looked:
            self._last, self._looked = run_before(self._store, self._run.run_id), True
        return self._last

    def _open(self, run_id: str) -> Run | str:
        if run_id not in self._opened:
            try:
                self._opened[run_id] = Run(self._store, run_id)
            except StoreError:
                raise
            except GradattrError as error:
                self._opened[run_id] = str(error)
        return self._opened[run_id]
