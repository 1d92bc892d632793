"""An audit: its jobs one after the other on one cluster, each a run of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from gradattr.errors import CheckError, GradattrError, Interrupted
from gradattr.manifest.operation import Runtime
from gradattr.runtime.executor import Executor, OpenExecutor, inline
from gradattr.runtime.progress import Event, Listener
from gradattr.runtime.signals import StopRequest
from gradattr.storage.commit import find_commit
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import RunContext
from gradattr.work.planning.prepare_audit import for_every_job
from gradattr.work.planning.prepared import Prepared

#: Carries out one run and commits it.
CarryOut = Callable[[Prepared, Listener, OpenExecutor], None]


def finished_jobs(prepared: Prepared, store: ObjectStore) -> list[str]:
    """Names of the jobs whose runs are committed. IntegrityError if a commit is damaged."""
    return [
        name
        for name, job in prepared.jobs.items()
        if find_commit(store, job.plan.run_id) is not None
    ]


def carry_out_jobs(
    prepared: Prepared,
    done: list[str],
    listener: Listener,
    stop: StopRequest,
    open_executor: OpenExecutor | None,
    carry_out: CarryOut,
) -> None:
    """Carry out an audit's jobs that are not ``done``, in its order; the first that fails ends it.

    Raises what ``carry_out`` raises, with the job's name and what becomes of the others.
    """
    left = [name for name in prepared.jobs if name not in done]
    for name in done:
        run_id = prepared.jobs[name].plan.run_id
        listener(Event("note", f"job {name}: {run_id} is already complete"))
    jobs = {name: prepared.jobs[name] for name in left}
    with _executors(jobs, stop, open_executor) as open_one:
        for number, (name, job) in enumerate(jobs.items()):
            place = list(prepared.jobs).index(name) + 1
            counted = f"{place} of {len(prepared.jobs)}"
            listener(Event("note", f"job {name} ({counted}): run {job.plan.run_id}"))
            try:
                carry_out(job, _of_job(name, listener), open_one)
            except Interrupted:
                raise
            except GradattrError as error:
                finished = [other for other in prepared.jobs if other not in left[number:]]
                raise _failed(name, error, finished, left[number + 1 :]) from error
            listener(Event("note", f"job {name}: committed {job.plan.run_id}"))


def _failed(
    name: str, error: GradattrError, finished: list[str], waiting: list[str]
) -> GradattrError:
    text = str(error)
    if isinstance(error, CheckError):
        # The key as it is written for a job.
        text = text.replace("--set errors.max", f"--set jobs.{name}.errors.max")
    lines = [f"job '{name}': {text}"]
    if finished:
        lines.append(f"Complete, and kept: {', '.join(finished)}")
    if waiting:
        lines.append(f"Not begun: {', '.join(waiting)}")
    return type(error)("\n".join(lines))


def _of_job(name: str, listener: Listener) -> Listener:
    """What a job says, with its name."""

    def named(event: Event) -> None:
        stage = f"{name} {event.stage}" if event.stage else ""
        listener(replace(event, message=f"{name}: {event.message}", stage=stage))

    return named


@contextmanager
def _executors(
    jobs: dict[str, Prepared], stop: StopRequest, given: OpenExecutor | None
) -> Iterator[OpenExecutor]:
    """Within: a way to open an executor for each of the jobs, all of them on one cluster. Raises
    UsageError that names every job whose tasks no node can run."""
    runtimes = {name: job.context.manifest.runtime for name, job in jobs.items()}
    if given is not None or not jobs:
        yield given or inline
        return
    if next(iter(runtimes.values())).address == "inline":
        yield inline
        return
    # Here and not above, so that a run without Ray does not load it.
    from gradattr.runtime.ray_cluster import check_resources, connect
    from gradattr.runtime.ray_executor import ray_executor

    stop.listen()
    with connect(widest(list(runtimes.values()))) as description:
        # Ray takes the signals for itself.
        stop.listen()
        for_every_job(runtimes, check_resources)

        def on_ray(context: RunContext) -> AbstractContextManager[Executor]:
            return ray_executor(context, description)

        yield on_ray
    stop.listen()


def widest(runtimes: list[Runtime]) -> Runtime:
    """Of runtimes at one address the one that asks for the most CPUs, which a local Ray starts
    with; 'auto' is all of them."""

    def cpus(runtime: Runtime) -> float:
        if runtime.workers == "auto":
            return float("inf")
        return runtime.workers * runtime.cpus_per_task

    return max(runtimes, key=cpus)
