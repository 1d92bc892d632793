"""The driver: plan, find out what is missing, have it done, commit. Running it again resumes.

Killing the driver at any instant loses at most the shards under way, because nothing is
remembered but what stands in the store: shard records, and in the end the commit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from gradattr.errors import Interrupted, ShardError, StoreError
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.tfa import TfaManifest
from gradattr.plan import Stage, Task
from gradattr.runtime.attempt_log import AttemptLog
from gradattr.runtime.audit import carry_out_jobs, finished_jobs
from gradattr.runtime.executor import Executor, OpenExecutor, inline
from gradattr.runtime.progress import Event, Listener, StageProgress, ignore
from gradattr.runtime.signals import StopRequest, listen_for_stop
from gradattr.storage.audits import job_commits
from gradattr.storage.commit import Commit, commit_run, find_commit, read_records
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.run_json import create_run
from gradattr.work.acceptance import check_bad_rows, check_one_model
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome
from gradattr.work.planning.check_checks import check_planned
from gradattr.work.planning.preflight import preflight_run
from gradattr.work.planning.prepare import prepare
from gradattr.work.planning.prepared import Prepared


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    run_id: str
    uri: str
    rows: int
    """What the run is about: input rows of its last stage; of kind tfa the queries; of an audit the
    jobs."""
    bad_rows: int
    already_complete: bool
    """True: it had been committed before, and nothing was done."""
    unit: str = "rows"
    """'rows', 'queries' or 'jobs'."""


def run(
    manifest: Manifest,
    *,
    listener: Listener = ignore,
    open_executor: OpenExecutor | None = None,
) -> RunResult:
    """Carry out a manifest, or what is missing of it, and commit the run.

    Raises UsageError and its kin (nothing written), ConflictError, StoreError or ShardError
    (resumable), CheckError (too many bad rows; not committed), Interrupted (by a signal).
    """
    with listen_for_stop() as stop:
        try:
            return _run(manifest, listener, stop, open_executor)
        except KeyboardInterrupt:
            raise _interrupted(stop) from None


def _run(
    manifest: Manifest, listener: Listener, stop: StopRequest, open_executor: OpenExecutor | None
) -> RunResult:
    store = open_store(manifest.store)
    prepared = prepare(manifest, store)
    plan = prepared.plan
    listener(Event("plan", f"run {plan.run_id}: {_planned(prepared)}"))
    commit = find_commit(store, plan.run_id)
    done = finished_jobs(prepared, store)
    if commit is not None and len(done) == len(prepared.jobs):
        check_planned(prepared, store)
        job_commits(store, plan.run_json(), commit.records)
        listener(Event("complete", f"{plan.run_id} is already complete"))
        return _result(store, commit, already_complete=True)
    for note in preflight_run(prepared, done):
        listener(Event("note", note))
    session = _Session(store, store.probe(), stop)
    commit = session.carry_out(prepared, done, listener, open_executor)
    listener(Event("commit", f"committed {plan.run_id}"))
    return _result(store, commit, already_complete=False)


def _planned(prepared: Prepared) -> str:
    plan, manifest = prepared.plan, prepared.context.manifest
    if isinstance(manifest, AuditManifest):
        return f"{plan.rows} jobs"
    return f"{plan.rows} {'queries at most' if isinstance(manifest, TfaManifest) else 'rows'}"


@dataclass(frozen=True)
class _Session:
    """What all runs of one call have in common."""

    store: ObjectStore
    capabilities: dict[str, Any]
    stop: StopRequest

    def carry_out(
        self,
        prepared: Prepared,
        done: list[str],
        listener: Listener,
        open_executor: OpenExecutor | None,
    ) -> Commit:
        """Claim the run, do what is missing of it (of an audit first its jobs but those ``done``),
        and commit."""
        store, plan = self.store, prepared.plan
        create_run(store, plan.run_json())
        log = AttemptLog.start(store, plan.run_id, self.capabilities)
        try:
            if prepared.jobs:
                carry_out_jobs(prepared, done, listener, self.stop, open_executor, self._job)
                # Where every job is: the driver can reach the store, too.
                open_executor = open_executor or inline
            _run_stages(prepared, store, listener, log, self.stop, open_executor)
            _check_shards(prepared, store)
            commit = commit_run(store, plan.run_json())
        except BaseException as error:
            log.end(error)
            raise
        log.end(None)
        return commit

    def _job(self, job: Prepared, listener: Listener, open_executor: OpenExecutor) -> None:
        self.carry_out(job, [], listener, open_executor)


def _result(store: ObjectStore, commit: Commit, *, already_complete: bool) -> RunResult:
    uri = store.url(RunPaths(commit.run_id).root)
    rows, unit = commit.size
    bad = sum(int(record.extra.get("bad_rows_of_jobs", 0)) for record in commit.records)
    return RunResult(commit.run_id, uri, rows, commit.bad_rows + bad, already_complete, unit)


def _run_stages(
    prepared: Prepared,
    store: ObjectStore,
    listener: Listener,
    log: AttemptLog,
    stop: StopRequest,
    open_executor: OpenExecutor | None,
) -> None:
    missing = _missing(prepared, store)
    if not any(missing.values()):
        return
    with _executor(prepared.context, stop, open_executor) as executor, stop.patience():
        if not prepared.jobs:  # which have said where they run
            listener(Event("note", f"running on {executor.describe()}"))
        executor.check([task for tasks in missing.values() for task in tasks])
        for stage in prepared.plan.stages:
            if missing[stage.name]:
                _run_stage(stage, missing[stage.name], prepared, executor, listener, log, stop)
            if stop.requested:
                raise _interrupted(stop)
    stop.listen()


def _interrupted(stop: StopRequest) -> Interrupted:
    return Interrupted(
        f"stopped by {stop.signal_name or 'an interrupt'}; finished shards are kept, and the same "
        "command goes on from there"
    )


def _executor(
    context: RunContext, stop: StopRequest, open_executor: OpenExecutor | None
) -> AbstractContextManager[Executor]:
    if open_executor is not None:
        return open_executor(context)
    if context.manifest.runtime.address == "inline":
        return inline(context)
    # Here and not above, so that a run without Ray does not load it.
    from gradattr.runtime.ray_executor import ray_executor

    stop.listen()
    return ray_executor(context)


def _missing(prepared: Prepared, store: ObjectStore) -> dict[str, list[Task]]:
    """Per stage the tasks without a record that counts."""
    lacking = {name for name, record in read_records(store, prepared.plan.run_json()) if not record}
    return {
        stage.name: [task for task in stage.tasks if (stage.name, task.key) in lacking]
        for stage in prepared.plan.stages
    }


def _run_stage(
    stage: Stage,
    tasks: list[Task],
    prepared: Prepared,
    executor: Executor,
    listener: Listener,
    log: AttemptLog,
    stop: StopRequest,
) -> None:
    total = sum(task.rows for task in stage.tasks)
    before = total - sum(task.rows for task in tasks)
    progress = StageProgress(stage.name, total, before, listener)
    progress.emit("stage", f"stage {stage.name}: {len(tasks)} of {len(stage.tasks)} shards to do")
    allowed = 1 + prepared.context.manifest.runtime.retries
    with progress.beating():
        failed, attempts = _attempt(tasks, allowed, executor, progress, log, stop)
    if failed and not stop.requested:
        raise ShardError(_failure_text(stage, failed, attempts))


def _attempt(
    tasks: list[Task],
    allowed: int,
    executor: Executor,
    progress: StageProgress,
    log: AttemptLog,
    stop: StopRequest,
) -> tuple[dict[str, Outcome], dict[str, int]]:
    """Have tasks done, crashed ones up to ``allowed`` times; the failed ones, and all attempts."""
    attempts = {task.key: 0 for task in tasks}
    failed: dict[str, Outcome] = {}
    while tasks and not stop.requested:
        again: list[Task] = []
        by_key = {task.key: task for task in tasks}
        for outcome in executor.run(tasks, lambda: stop.requested):
            attempts[outcome.key] += 1
            log.outcome(outcome)
            if outcome.status == "ok":
                progress.finished(outcome.key, outcome.rows, outcome.bad_rows)
            elif outcome.status == "fatal":
                raise StoreError(
                    f"shard {outcome.stage}/{outcome.key}: {outcome.error}\nStopped; finished "
                    "shards are kept, and the same command goes on from there"
                )
            elif outcome.status == "crashed" and attempts[outcome.key] < allowed:
                progress.emit("retry", _line(outcome), outcome.key)
                again.append(by_key[outcome.key])
            else:
                failed[outcome.key] = outcome
                progress.emit("failed", _line(outcome), outcome.key)
        tasks = again
    return failed, attempts


def _line(outcome: Outcome) -> str:
    return f"{outcome.stage} {outcome.key}: {outcome.error}"


def _failure_text(stage: Stage, failed: dict[str, Outcome], attempts: dict[str, int]) -> str:
    lines = [f"{len(failed)} of {len(stage.tasks)} shards of stage {stage.name} failed:"]
    for key, outcome in list(failed.items())[:10]:
        tries = f" (after {attempts[key]} attempts)" if outcome.status == "crashed" else ""
        lines.append(f"  {stage.name}/{key}: {outcome.error}{tries}")
    if len(failed) > 10:
        lines.append(f"  and {len(failed) - 10} more")
    lines.append("The other shards are kept; the same command tries these again")
    return "\n".join(lines)


def _check_shards(prepared: Prepared, store: ObjectStore) -> None:
    """CheckError or IntegrityError if the shards must not be committed."""
    plan = prepared.plan
    found = read_records(store, plan.run_json())
    records = [record for _, record in found if record is not None]
    job_commits(store, plan.run_json(), records)
    shards = [(record.shard, record.extra) for record in records]
    check_one_model(store.url(RunPaths(plan.run_id).root), shards)
    extras = [extra for _, extra in shards]
    check_bad_rows(prepared.context.manifest, plan.rows, extras)
