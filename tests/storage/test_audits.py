"""Runs that name other runs: found, read, counted and told from others in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradattr.canonical import digest_bytes
from gradattr.errors import IntegrityError, QueryError, ShardError
from gradattr.storage.audit_tables import JOBS
from gradattr.storage.audits import AuditJob, audit_jobs, finished_job, job_commits
from gradattr.storage.commit import Commit, commit_run
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.query import open_query
from gradattr.storage.run_json import create_run
from gradattr.storage.runs import list_runs, progress
from gradattr.storage.schemas import make_table
from gradattr.storage.sealed import seal
from gradattr.storage.shards import ShardWriter
from gradattr.storage.verify import verify_run

MakeRun = Callable[..., Any]
FINGERPRINT = "ab" * 32


def _plan(runs: dict[str, Any]) -> dict[str, Any]:
    jobs = []
    for name, run in runs.items():
        stages = (("attribute", run.shards, run.shards * run.rows),)
        job = AuditJob(name, "attribute", run.run_id, run.json["fingerprint"], stages)
        jobs.append(job.to_json())
    return {
        "format": "gradattr/run",
        "protocol": 1,
        "run_id": "both-abababab",
        "fingerprint": FINGERPRINT,
        "manifest": {"name": "both", "kind": "audit"},
        "inputs": {"jobs": jobs},
        "stages": [
            {
                "name": "collect",
                "tables": ["jobs"],
                "expected_rows": {"jobs": len(jobs)},
                "shards": [["jobs", len(jobs)]],
            }
        ],
    }


def _committed(store: ObjectStore, plan: dict[str, Any]) -> Commit:
    create_run(store, plan)
    writer = ShardWriter(store, plan["run_id"], FINGERPRINT, "collect", "jobs")
    rows, files = [], []
    for job in audit_jobs(plan):
        commit, data = finished_job(store, job)
        key = RunPaths(job.run_id).commit
        files.append({"key": key, "bytes": len(data), "sha256": digest_bytes(data)})
        rows.append(
            {
                "job": job.job,
                "kind": job.kind,
                "run_id": job.run_id,
                "fingerprint": job.fingerprint,
                "commit_sha256": files[-1]["sha256"],
                "rows": commit.size[0],
                "unit": commit.size[1],
                "bad_rows": commit.bad_rows,
                "tables": list(commit.tables),
                "bytes": commit.bytes,
                "uri": RunPaths(job.run_id).root,
            }
        )
    columns = {name: [row[name] for row in rows] for name in JOBS.schema.names}
    writer.append("jobs", make_table("jobs", columns))
    writer.finish(len(rows), None, {"files": files})
    return commit_run(store, plan)


@pytest.fixture
def runs(small_run: MakeRun) -> dict[str, Any]:
    return {"one": small_run(shards=2, seed=1), "a-b": small_run(shards=1, seed=2)}


@pytest.fixture
def both(local: ObjectStore, runs: dict[str, Any]) -> tuple[dict[str, Any], Commit]:
    for run in runs.values():
        run.write(local)
    plan = _plan(runs)
    return plan, _committed(local, plan)


def test_only_audits_have_jobs(runs: dict[str, Any]) -> None:
    plan = _plan(runs)
    assert [job.job for job in audit_jobs(plan)] == ["one", "a-b"]
    assert AuditJob.from_json(audit_jobs(plan)[0].to_json()) == audit_jobs(plan)[0]
    assert audit_jobs(runs["one"].json) == []


def test_commits_of_jobs(local: ObjectStore, both: tuple[dict[str, Any], Commit]) -> None:
    plan, commit = both
    found = job_commits(local, plan, commit.records)
    assert list(found) == ["one", "a-b"]
    assert [one.size for one in found.values()] == [(8, "rows"), (4, "rows")]
    assert commit.size == (2, "jobs")


def test_a_job_that_is_not_complete(local: ObjectStore, runs: dict[str, Any]) -> None:
    runs["one"].write(local)
    create_run(local, runs["a-b"].json)
    first, second = audit_jobs(_plan(runs))
    finished_job(local, first)
    with pytest.raises(ShardError, match=r"so job 'a-b' is not complete"):
        finished_job(local, second)


def test_a_run_of_another_plan_is_no_job(
    local: ObjectStore, both: tuple[dict[str, Any], Commit]
) -> None:
    plan, commit = both
    other = {**plan, "inputs": {"jobs": [dict(job) for job in plan["inputs"]["jobs"]]}}
    other["inputs"]["jobs"][0]["fingerprint"] = "0" * 64
    with pytest.raises(IntegrityError, match="another manifest, model or data set than job 'one'"):
        job_commits(local, other, commit.records)


def test_a_commit_that_was_replaced_or_cut(
    local: ObjectStore, both: tuple[dict[str, Any], Commit]
) -> None:
    plan, commit = both
    (job, *_) = audit_jobs(plan)
    key = RunPaths(job.run_id).commit
    data = local.get(key)
    assert data is not None
    local.put(key, seal(finished_job(local, job)[0].to_json() | {"rows": {"attribute": 9}}))
    with pytest.raises(IntegrityError, match=r"not the commit that the audit both-abababab names"):
        job_commits(local, plan, commit.records)
    assert not verify_run(local, "both-abababab").ok
    local.put(key, data[:-20])
    with pytest.raises(IntegrityError, match="delete this file"):
        job_commits(local, plan, commit.records)
    local.delete(key)
    with pytest.raises(IntegrityError, match="run the audit again"):
        job_commits(local, plan, commit.records)
    local.put(key, data)
    report = verify_run(local, "both-abababab")
    assert report.ok
    assert report.rows == {
        "jobs": 2,
        **{f"one.{name}": n for name, n in _rows(8).items()},
        **{f"a-b.{name}": n for name, n in _rows(4).items()},
    }


def _rows(rows: int) -> dict[str, int]:
    return {"predictions": rows, "attributions": 2 * rows, "maps": 2 * rows, "errors": 0}


def test_progress_counts_every_job(local: ObjectStore, runs: dict[str, Any]) -> None:
    plan = _plan(runs)
    create_run(local, plan)
    create_run(local, runs["one"].json)
    runs["one"].write_shard(local, 0)
    one, other = progress(local, plan).jobs
    assert (one.begun, one.committed, one.stages[0].shards_done, one.stages[0].shards) == (
        True,
        False,
        1,
        2,
    )
    assert (other.begun, other.committed) == (False, False)
    assert (other.stages[0].shards_done, other.stages[0].rows) == (0, 4)
    assert progress(local, runs["one"].json).jobs == ()


def test_an_audit_is_listed_with_its_jobs(
    local: ObjectStore, both: tuple[dict[str, Any], Commit]
) -> None:
    assert {one.run_id: (one.kind, one.rows) for one in list_runs(local)} == {
        "both-abababab": ("audit", 2),
        "small-00000001": ("attribute", 8),
        "small-00000002": ("attribute", 4),
    }


def test_every_job_is_a_schema(any_store: ObjectStore, runs: dict[str, Any]) -> None:
    for run in runs.values():
        run.write(any_store)
    plan = _plan(runs)
    commit = _committed(any_store, plan)
    jobs = job_commits(any_store, plan, commit.records)
    with open_query(any_store, commit, jobs=jobs) as query:
        found = query.sql(
            "SELECT j.job, (SELECT count(*) FROM one.predictions) AS one, "
            '(SELECT count(*) FROM "a-b".attributions) AS other FROM jobs j ORDER BY j.job'
        )
        assert found.to_pydict() == {"job": ["a-b", "one"], "one": [8, 8], "other": [8, 8]}
        joined = 'SELECT count(*) AS n FROM one.maps JOIN "a-b".predictions USING (sample_id)'
        assert query.sql(joined).to_pylist() == [{"n": 8}]
        assert query.sql("SELECT * FROM one.errors").num_rows == 0
        for wrong, told in (
            ("SELECT * FROM predictions", "does not exist"),
            ("SELECT * FROM one.jobs", "does not exist"),
            ("CREATE VIEW one.mine AS SELECT 1", "is refused"),
            ("COPY (SELECT 1) TO 'x'", "is refused"),
        ):
            with pytest.raises(QueryError, match=told):
                query.sql(wrong)


def test_only_files_of_the_jobs_can_be_read(
    local: ObjectStore, both: tuple[dict[str, Any], Commit], small_run: MakeRun
) -> None:
    stranger = small_run(seed=3).write(local)
    plan, commit = both
    with open_query(local, commit, jobs=job_commits(local, plan, commit.records)) as query:
        file = stranger.tables["predictions"].files[0].key
        url = local.url(RunPaths(stranger.run_id).absolute(file))
        with pytest.raises(QueryError, match="disabled by configuration"):
            query.sql(f"SELECT * FROM read_parquet('{url}')")
