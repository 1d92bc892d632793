"""The plan of ``kind: audit``: the plans of its jobs, and one task that collects them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gradattr.errors import UsageError
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.job_kinds import JobManifest
from gradattr.plan import Plan, Stage, Task, assemble
from gradattr.storage.audit_tables import JOBS
from gradattr.storage.audits import AuditJob
from gradattr.storage.objects import ObjectStore
from gradattr.work.audit.collect import COLLECT_STAGE
from gradattr.work.context import RunContext
from gradattr.work.planning.prepared import Prepared

T = TypeVar("T")
R = TypeVar("R")


#: Plans a job, given ``run.json`` of the jobs before it by run id.
PrepareJob = Callable[[JobManifest, Mapping[str, dict[str, Any]]], Prepared]


def prepare_audit(manifest: AuditManifest, store: ObjectStore, prepare_job: PrepareJob) -> Prepared:
    """Plan every job, and the audit over them. UsageError names every job that cannot work."""
    done: dict[str, Prepared] = {}

    def one(entry: tuple[str, JobManifest]) -> Prepared:
        name, job = entry
        planned = {earlier.plan.run_id: earlier.plan.run_json() for earlier in done.values()}
        done[name] = prepare_job(_of_an_earlier_job(job, done), planned)
        return done[name]

    jobs = for_every_job({name: (name, job) for name, job in manifest.jobs.items()}, one)
    named = [_named(name, prepared.plan).to_json() for name, prepared in jobs.items()]
    task = Task(COLLECT_STAGE, JOBS.name, len(named), {"jobs": named})
    stage = Stage(COLLECT_STAGE, (task,), (JOBS.name,), {JOBS.name: len(named)})
    resolved = manifest.model_dump(mode="json")
    plan = assemble(resolved, {"jobs": named}, (stage,))
    # The opened store's own spec, also in the jobs, whose store is the audit's.
    spec = store.spec.model_dump(mode="json")
    whole = {
        name: job | {"store": spec | {"maps": job["store"]["maps"]}}
        for name, job in resolved["jobs"].items()
    }
    context = RunContext(
        run_id=plan.run_id,
        fingerprint=plan.fingerprint,
        manifest_json=resolved | {"store": spec, "jobs": whole},
        # What its jobs have each of their own.
        shape=(1, 1, 1),
        num_classes=0,
        preprocess_json={},
        models=(),
        pools={},
    )
    return Prepared(plan, context, jobs)


def _of_an_earlier_job(job: JobManifest, done: Mapping[str, Prepared]) -> JobManifest:
    """The job, with the run of the job whose maps it judges in place of that job's name."""
    if not isinstance(job, EvaluateManifest) or not (job.attributions or "").startswith("job:"):
        return job
    other = str(job.attributions).removeprefix("job:")
    if other not in done:
        raise UsageError(f"attributions: the job '{other}' cannot work, so there are no maps")
    return job.model_copy(update={"attributions": f"run:{done[other].plan.run_id}"})


def _named(name: str, plan: Plan) -> AuditJob:
    stages = tuple(
        (stage.name, len(stage.tasks), sum(task.rows for task in stage.tasks))
        for stage in plan.stages
    )
    return AuditJob(name, plan.manifest["kind"], plan.run_id, plan.fingerprint, stages)


def for_every_job(jobs: Mapping[str, T], act: Callable[[T], R]) -> dict[str, R]:
    """What ``act`` answers for every job. UsageError (or its kin) names all jobs that cannot be
    carried out, not only the first."""
    found, faults = {}, {}
    for name, job in jobs.items():
        try:
            found[name] = act(job)
        except UsageError as error:
            faults[name] = error
    if len(faults) == 1:
        ((name, fault),) = faults.items()
        raise type(fault)(f"job '{name}': {fault}")
    if faults:
        lines = [f"  job '{name}': {fault}" for name, fault in faults.items()]
        raise UsageError("\n".join([f"{len(faults)} of {len(jobs)} jobs cannot work:", *lines]))
    return found
