"""Checks of audits: each of a job, or over all of them, and what 'last' means for a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.cli.check import asked_by, asked_in
from gradattr.manifest.audit import AuditManifest
from gradattr.metrics.checks import Verdict
from gradattr.report.compare.runs import compare_runs
from gradattr.report.results import Run, open_run
from gradattr.report.verdicts import check_with_jobs
from gradattr.runtime.driver import run

LAST: dict[str, Any] = {"not_worse_than": "last", "by": 1.0}
CHECKS: list[dict[str, Any]] = [
    {"job": "maps", "check": "predictions", **LAST},
    {"job": "trust", "check": "diffroar", "scheme": "random", "level": 0.3, **LAST},
    {"check": "sql", "name": "rows", "sql": "SELECT count(*) FROM maps.errors", "at_most": 0},
]


def _judged(manifest: AuditManifest) -> tuple[Run, list[Verdict]]:
    opened = open_run(run(manifest).uri)
    return opened, check_with_jobs(opened, asked_by(manifest))


@pytest.fixture
def changed(audit_of_jobs: Callable[..., AuditManifest]) -> Callable[..., AuditManifest]:
    """The audit with other keys of its jobs."""

    def make(**changes: dict[str, Any]) -> AuditManifest:
        jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
        jobs = {name: job | changes.get(name, {}) for name, job in jobs.items()}
        return audit_of_jobs(jobs=jobs, checks=CHECKS)

    return make


def test_checks_of_jobs_and_over_all(changed: Callable[..., AuditManifest]) -> None:
    opened, verdicts = _judged(changed())
    assert [one.group for one in verdicts] == ["rows", "maps.accuracy", "trust.diffroar"]
    assert [one.check.partition(":")[0] for one in verdicts[1:]] == ["maps", "trust"]
    assert [one.made for one in verdicts] == [True, False, False]
    assert all(one.passed for one in verdicts)
    # The run itself remembers what it was asked.
    assert check_with_jobs(opened, asked_in(opened.manifest)) == verdicts


def test_last_of_a_job_is_the_same_job_of_the_last_audit(
    changed: Callable[..., AuditManifest],
) -> None:
    fewer = {"data": {"format": "digits", "split": "test", "limit": 30}}
    first, _ = _judged(changed())
    second, verdicts = _judged(changed(maps=fewer))
    assert second.job("trust").run_id == first.job("trust").run_id
    assert f"(earlier run {first.job('maps').run_id})" in verdicts[1].text
    # Nothing of it has changed, and that is what is said.
    assert "changed by +0" in verdicts[2].text
    assert f"(earlier run {first.job('trust').run_id})" in verdicts[2].text
    # The job's run is older than the one that it is compared with.
    third, verdicts = _judged(changed(trust={"levels": [0.3, 0.5, 1.0]}))
    assert third.job("maps").run_id == first.job("maps").run_id
    assert f"(earlier run {second.job('maps').run_id})" in verdicts[1].text
    assert f"(earlier run {second.job('trust').run_id})" in verdicts[2].text


def test_an_audit_that_was_never_committed_is_not_the_last(
    changed: Callable[..., AuditManifest],
) -> None:
    first, _ = _judged(changed())
    Path(first.uri, "_COMMIT.json").unlink()
    fewer = {"data": {"format": "digits", "split": "test", "limit": 30}}
    _, verdicts = _judged(changed(maps=fewer))
    # But the run of the job by itself is there to be compared with.
    assert f"(earlier run {first.job('maps').run_id})" in verdicts[1].text
    assert not verdicts[2].made


def test_what_two_audits_were_made_from(changed: Callable[..., AuditManifest]) -> None:
    fewer = {"data": {"format": "digits", "split": "test", "limit": 30}}
    first, _ = _judged(changed())
    second, _ = _judged(changed(maps=fewer))
    same = compare_runs(first, first)
    assert same.about.startswith("Both runs are of the same model and the same data")
    other = compare_runs(first, second)
    assert other.about.startswith("THE DATA DIFFER")
    assert "The models are the same" in other.about
    assert [one.key for one in other.asked] == ["jobs.maps.data.limit"]
    assert (other.to_json()["same_data"], other.to_json()["same_models"]) == (False, True)
