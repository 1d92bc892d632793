"""What stands in a store: for ``ls`` and ``status``, which may be a little behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradattr.errors import GradattrError, StoreError, UsageError
from gradattr.storage.audits import AuditJob, audit_jobs
from gradattr.storage.commit import find_commit
from gradattr.storage.layout import RUNS, RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.run_json import read_run


@dataclass(frozen=True)
class RunSummary:
    """One run of a store."""

    run_id: str
    name: str
    kind: str
    committed: bool
    rows: int
    """Input rows of the last stage, as planned."""
    shards: int
    tables: dict[str, int]
    """Rows by table; empty if not committed."""
    bytes: int
    """Bytes of the committed tables."""
    modified: float
    """Seconds since 1970, by the store's clock, of the commit, else of run.json."""
    problem: str | None
    """Why the run cannot be read, if it cannot."""


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is."""

    stage: str
    shards_done: int
    shards: int
    rows_done: int
    rows: int


@dataclass(frozen=True)
class JobProgress:
    """How far a job of an audit is."""

    job: str
    run_id: str
    begun: bool
    """Whether its run has been claimed."""
    committed: bool
    stages: tuple[StageProgress, ...]


@dataclass(frozen=True)
class Progress:
    """How far a run is. Counts records by listing: for display, not for decisions."""

    run_id: str
    committed: bool
    stages: tuple[StageProgress, ...]
    jobs: tuple[JobProgress, ...] = ()
    """Of an audit: how far its jobs are."""


def list_runs(store: ObjectStore) -> list[RunSummary]:
    """Every run of a store, by run id. A damaged one is listed with its problem."""
    return [_summary(store, run_id) for run_id in store.children(f"{RUNS}/")]


def _summary(store: ObjectStore, run_id: str) -> RunSummary:
    try:
        run_json = read_run(store, run_id)
        commit = find_commit(store, run_id)
        paths = RunPaths(run_id)
        info = store.head(paths.commit if commit else paths.run_json)
        last = run_json["stages"][-1]["shards"] if run_json["stages"] else []
        return RunSummary(
            run_id=run_id,
            name=str(run_json["manifest"].get("name", run_id.rpartition("-")[0])),
            kind=str(run_json["manifest"].get("kind", "")),
            committed=commit is not None,
            rows=sum(rows for _, rows in last),
            shards=sum(len(stage["shards"]) for stage in run_json["stages"]),
            tables={name: t.rows for name, t in commit.tables.items()} if commit else {},
            bytes=commit.bytes if commit else 0,
            modified=info.modified if info else 0.0,
            problem=None,
        )
    except StoreError:
        raise
    except (GradattrError, KeyError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, GradattrError) else f"run.json is damaged ({error})"
        return RunSummary(run_id, run_id, "", False, 0, 0, {}, 0, 0.0, text)


def run_before(store: ObjectStore, run_id: str) -> str | None:
    """The last run of the same name and kind that was committed before this one, by the store's
    clock; None if there is none. ``run_id`` is committed; damaged runs are passed over."""
    own = read_run(store, run_id)["manifest"]
    committed = _committed(store, run_id)
    before = []
    for other in store.children(f"{RUNS}/"):
        if other == run_id:
            continue
        try:
            manifest = read_run(store, other)["manifest"]
            same = all(manifest[key] == own[key] for key in ("name", "kind"))
        except StoreError:
            raise
        except (GradattrError, KeyError, TypeError):
            continue
        when = _committed(store, other) if same else None
        if when is not None and committed is not None and when <= committed:
            before.append((when, other))
    return max(before)[1] if before else None


def _committed(store: ObjectStore, run_id: str) -> float | None:
    info = store.head(RunPaths(run_id).commit)
    return None if info is None else info.modified


def progress(store: ObjectStore, run_json: Mapping[str, Any]) -> Progress:
    """How many of the planned shards have a record; one listing per stage, also of an audit's jobs.

    IntegrityError if the run's commit was cut short or edited.
    """
    paths = RunPaths(run_json["run_id"])
    stages = []
    for stage in run_json["stages"]:
        prefix = paths.stage_records(stage["name"])
        there = {name.removesuffix(".json") for name in store.children(prefix)}
        done = [(key, rows) for key, rows in stage["shards"] if key in there]
        stages.append(
            StageProgress(
                stage=stage["name"],
                shards_done=len(done),
                shards=len(stage["shards"]),
                rows_done=sum(rows for _, rows in done),
                rows=sum(rows for _, rows in stage["shards"]),
            )
        )
    committed = find_commit(store, run_json["run_id"]) is not None
    jobs = tuple(_job_progress(store, job) for job in audit_jobs(run_json))
    return Progress(run_json["run_id"], committed, tuple(stages), jobs)


def _job_progress(store: ObjectStore, job: AuditJob) -> JobProgress:
    try:
        found = progress(store, read_run(store, job.run_id))
    except UsageError:
        stages = tuple(StageProgress(name, 0, shards, 0, rows) for name, shards, rows in job.stages)
        return JobProgress(job.job, job.run_id, False, False, stages)
    return JobProgress(job.job, job.run_id, True, found.committed, found.stages)
