"""An audit's run names the runs of its jobs: which they are, and whether they are still those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gradattr.canonical import digest_bytes
from gradattr.errors import IntegrityError, ShardError
from gradattr.storage.commit import Commit, parse_commit
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.shards import ShardRecord


@dataclass(frozen=True)
class AuditJob:
    """A job of an audit, as the audit's plan names it."""

    job: str
    kind: str
    run_id: str
    fingerprint: str
    stages: tuple[tuple[str, int, int], ...]
    """Name, number of shards and rows of every stage that is planned for it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "kind": self.kind,
            "run_id": self.run_id,
            "fingerprint": self.fingerprint,
            "stages": [list(stage) for stage in self.stages],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AuditJob:
        stages = tuple((name, shards, rows) for name, shards, rows in value["stages"])
        return cls(value["job"], value["kind"], value["run_id"], value["fingerprint"], stages)


def audit_jobs(run_json: Mapping[str, Any]) -> list[AuditJob]:
    """The jobs of an audit in its order, from its ``run.json``; none of a run of another kind."""
    if run_json["manifest"].get("kind") != "audit":
        return []
    return [AuditJob.from_json(job) for job in run_json["inputs"]["jobs"]]


def finished_job(store: ObjectStore, job: AuditJob) -> tuple[Commit, bytes]:
    """The commit of a job's run, and its bytes.

    ShardError: there is none. IntegrityError: it is damaged, or that of another plan.
    """
    key = RunPaths(job.run_id).commit
    data = store.get(key)
    if data is None:
        raise ShardError(
            f"{store.url(key)}: is missing, so job '{job.job}' is not complete; run the audit again"
        )
    commit = parse_commit(store, job.run_id, data)
    if commit.fingerprint != job.fingerprint:
        raise IntegrityError(
            f"{store.url(key)}: belongs to another manifest, model or data set than job "
            f"'{job.job}' of the audit"
        )
    return commit, data


def job_commits(
    store: ObjectStore, run_json: Mapping[str, Any], records: Iterable[ShardRecord]
) -> dict[str, Commit]:
    """The commits of an audit's jobs, by name, in the audit's order; none of another kind of run.
    ``records``: the audit's own.

    IntegrityError: one is missing, damaged, or not the one that the records name.
    """
    files = {file.key: file for record in records for file in record.outside_files()}
    audit = run_json["run_id"]
    found = {}
    for job in audit_jobs(run_json):
        key = RunPaths(job.run_id).commit
        try:
            commit, data = finished_job(store, job)
        except ShardError:
            raise IntegrityError(
                f"{store.url(key)}: is missing although the audit {audit} names it (job "
                f"'{job.job}'); run the audit again: what is missing of the job is done anew"
            ) from None
        if key not in files or digest_bytes(data) != files[key].sha256:
            raise IntegrityError(
                f"{store.url(key)}: is not the commit that the audit {audit} names for job "
                f"'{job.job}' (sha256 differs). If it is to be trusted, delete the folder "
                f"{store.url(RunPaths(audit).root)} and run the audit again: its jobs stay"
            )
        found[job.job] = commit
    return found
