"""Jobs of an audit that judge the maps of an earlier one; and how a job keeps its maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from gradattr.errors import UsageError
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.storage.schemas import MAP_CHOICE
from gradattr.work.planning.prepare import prepare

Make = Callable[..., AuditManifest]

METRICS = [{"metric": "deletion", "steps": 4}, "complexity"]


def jobs_of(audit: AuditManifest, attributions: str | None) -> dict[str, Any]:
    """A job that makes maps, and one that judges these, or maps that it makes itself."""
    model = audit.jobs["maps"].model_dump(mode="json")["model"]
    judging = {"model": model} if attributions is None else {"attributions": attributions}
    return {
        "maps": {"kind": "attribute", "model": model, "store": {"maps": "float32"}},
        "quality": {"kind": "evaluate", "metrics": METRICS, **judging},
    }


def finished(audit: AuditManifest) -> Run:
    return open_run(run(audit).uri)


def test_maps_are_made_once_and_judged(audit_of_jobs: Make) -> None:
    plain = audit_of_jobs()
    found = finished(audit_of_jobs(jobs=jobs_of(plain, "job:maps")))
    alone = finished(audit_of_jobs(jobs=jobs_of(plain, None), name="alone"))
    judged = found.job("quality")
    assert judged.manifest["attributions"] == f"run:{found.job('maps').run_id}"
    assert "maps" not in judged.tables and "maps" in alone.job("quality").tables
    keys = ["row", "method", "metric"]
    tables = (one.job("quality").frame("scores").sort_values(keys) for one in (found, alone))
    own, theirs = (table.reset_index(drop=True) for table in tables)
    pd.testing.assert_frame_equal(own, theirs, rtol=0, atol=1e-6)
    # Running it again looks at the same job, by hand the same run.
    again = finished(audit_of_jobs(jobs=jobs_of(plain, "job:maps")))
    assert again.run_id == found.run_id


@pytest.mark.parametrize("other", ["job:none", "job:quality"])
def test_only_an_earlier_job_with_maps_can_be_judged(audit_of_jobs: Make, other: str) -> None:
    with pytest.raises(ValidationError, match=r"no earlier job of kind attribute.*such are maps"):
        audit_of_jobs(jobs=jobs_of(audit_of_jobs(), other))


def test_outside_of_an_audit_there_are_no_jobs(audit_of_jobs: Make) -> None:
    store = audit_of_jobs().store.model_dump(mode="json")
    value = {"kind": "evaluate", "name": "x", "metrics": METRICS, "store": store}
    manifest = EvaluateManifest.model_validate({**value, "attributions": "job:maps"})
    with pytest.raises(UsageError, match="is for jobs of an audit; name a run"):
        prepare(manifest)


def test_a_job_without_a_plan_leaves_the_other_without_maps(audit_of_jobs: Make) -> None:
    jobs = jobs_of(audit_of_jobs(), "job:maps")
    jobs["maps"]["data"] = {"format": "npz", "file": "nowhere.npz"}
    with pytest.raises(UsageError, match=r"(?s)2 of 2 jobs.*'maps':.*'quality':.*no maps"):
        prepare(audit_of_jobs(jobs=jobs))


def test_a_job_keeps_maps_as_it_says(audit_of_jobs: Make) -> None:
    jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
    jobs = {"maps": {**jobs["maps"], "store": {"maps": "int8"}}, "more": {**jobs["maps"]}}
    for job in jobs.values():
        job.pop("name")
    jobs["more"].pop("store")
    found = finished(audit_of_jobs(jobs=jobs))
    kept = {name: found.job(name).table("maps").schema.metadata[MAP_CHOICE] for name in jobs}
    assert kept == {"maps": b"int8", "more": b"float16"}
