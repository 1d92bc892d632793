"""The task that ends an audit: every job's run is there, whole, and written down."""

from __future__ import annotations

from typing import Any

from gradattr.canonical import digest_bytes
from gradattr.plan import Task
from gradattr.storage.audit_tables import JOBS
from gradattr.storage.audits import AuditJob, finished_job
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import open_store
from gradattr.storage.reader import check_files
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext

COLLECT_STAGE = "collect"


def collect_jobs(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the table ``jobs`` from the commits of ``task.payload["jobs"]``.

    ShardError: a job is not complete. IntegrityError: its commit is damaged, or a file that it
    names is not there in full.
    """
    store = open_store(context.manifest.store)
    rows: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    bad_rows = 0
    for job in map(AuditJob.from_json, task.payload["jobs"]):
        commit, data = finished_job(store, job)
        check_files(store, commit)
        paths, sha256 = RunPaths(job.run_id), digest_bytes(data)
        count, unit = commit.size
        bad_rows += commit.bad_rows
        rows.append(
            {
                "job": job.job,
                "kind": job.kind,
                "run_id": job.run_id,
                "fingerprint": job.fingerprint,
                "commit_sha256": sha256,
                "rows": count,
                "unit": unit,
                "bad_rows": commit.bad_rows,
                "tables": list(commit.tables),
                "bytes": commit.bytes,
                "uri": paths.root,
            }
        )
        # The audit is whole only as long as these commits are those.
        files.append({"key": paths.commit, "bytes": len(data), "sha256": sha256})
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    columns = {name: [row[name] for row in rows] for name in JOBS.schema.names}
    writer.append(JOBS.name, make_table(JOBS.name, columns))
    extra = {
        "rows": task.rows,
        "bad_rows": 0,
        "bad_rows_of_jobs": bad_rows,
        "files": files,
    }
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra
