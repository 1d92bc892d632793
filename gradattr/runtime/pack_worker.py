"""One pack on Ray Train: what starts its worker group, and what each worker does.

Ray Train supplies the processes, the process group and the end of all when one dies; our queue
supplies the work, and our records the truth about what is done. ``ray.train.report`` is not used:
it waits for all workers, whose trials take different times.

Of the half dozen processes of a pack only the workers need torch and what stands on it; so what
is heavy is imported where it is used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray

from gradattr.plan import Task
from gradattr.runtime.pack_queue import OutOfStepError, Place, work_off
from gradattr.work.outcome import Outcome

if TYPE_CHECKING:
    from gradattr.work.context import RunContext

Work = Callable[["RunContext", Task], Outcome]

#: How Ray Train behaves; read from the environment by the process that calls ``fit``.
_ENVIRONMENT = {
    # Workers stay where Ray's own are, so that a store's relative path means the same.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Trials keep no state that a warning could save; it would be one more process per pack.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
}


@dataclass(frozen=True)
class PackOrder:
    """What the processes of one pack need to know."""

    number: int
    workers: int
    width: int
    """1: independent workers. Else all workers train one model together."""
    needs: dict[str, float]
    """What each worker reserves, by Ray's names of resources."""
    threads: int
    context: dict[str, Any]
    """RunContext as JSON."""
    work: Work | None = None
    """None: what the task's stage does."""


@dataclass(frozen=True)
class PackEnd:
    """How a pack ended."""

    error: str = ""
    """Empty: its workers found nothing left to pull."""
    died: dict[int, str] = field(default_factory=dict)
    """Ranks whose end ended the pack, and how they died."""


class _FarQueue:
    """The queue actor, to a worker."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def pull(self, place: Place, step: int) -> Task | None:
        return ray.get(self._actor.pull.remote(place, step))

    def push(self, place: Place, outcome: Outcome) -> None:
        ray.get(self._actor.push.remote(place, outcome))

    def hold(self, place: Place, outcome: Outcome) -> None:
        ray.get(self._actor.hold.remote(place, outcome))


def train_loop(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker."""
    from ray.train import get_context

    from gradattr.work.context import RunContext
    from gradattr.work.perform import perform
    from gradattr.work.resources import set_threads

    order: PackOrder = config["order"]
    context = RunContext.from_json(order.context)
    do = order.work or perform

    def work(task: Task) -> Outcome:
        set_threads(order.threads)
        return do(context, task)

    queue = _FarQueue(config["queue"])
    work_off(queue, order.number, get_context().get_world_rank(), order.width, work)


@ray.remote(num_cpus=0)
class PackStarter:
    """Starts a worker group and waits for its end.

    A process of its own rather than a thread of the driver: it works through ray:// too, loads
    Ray Train and what it prints elsewhere, and can be ended at any moment, its workers with it.
    An actor rather than a task, because ending it is safe: a task that was cancelled by force just
    as it finished was seen to end the driver's own process (Ray 2.60, "Tried to complete task
    that was not pending").
    """

    def run(self, queue: Any, order: PackOrder) -> PackEnd:
        """Once in a starter's life."""
        os.environ.update(_ENVIRONMENT)
        from ray.train import ControllerError
        from ray.train.v2.api.exceptions import WorkerGroupError

        with (
            tempfile.TemporaryDirectory(prefix="pack-", dir=_session_folder()) as folder,
            # Out of the main thread Ray Train leaves this process' signals alone.
            ThreadPoolExecutor(1) as thread,
        ):
            try:
                thread.submit(_fit, queue, order, folder).result()
            except WorkerGroupError as error:
                return PackEnd(_first_line(error), _deaths(error.worker_failures))
            except ControllerError as error:
                return PackEnd(_reason(error.controller_failure))
            except ray.exceptions.RayError as error:
                return PackEnd(_reason(error))
        return PackEnd()


def _session_folder() -> str:
    # Private to the driver where Ray is its own. Ray Train needs a folder, writes one empty file
    # into it, and would take one in the user's home.
    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path())


def _fit(queue: Any, order: PackOrder, folder: str) -> None:
    from ray.train import BackendConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    backend = BackendConfig()
    gpus = order.needs.get("GPU", 0.0)
    if order.width > 1:
        from ray.train.torch import TorchConfig

        # NCCL refuses two workers on one GPU.
        backend = TorchConfig(backend="nccl" if gpus >= 1 else "gloo")
    DataParallelTrainer(
        train_loop,
        train_loop_config={"queue": queue, "order": order},
        backend_config=backend,
        scaling_config=ScalingConfig(
            num_workers=order.workers, use_gpu=gpus > 0, resources_per_worker=order.needs
        ),
        run_config=RunConfig(
            name=f"pack-{order.number}",
            storage_path=folder,
            # No second life within Ray Train: the queue decides what is done again, and where.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=1, max_preemption_failures=0
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    ).fit()


def _deaths(failures: dict[int, Exception]) -> dict[int, str]:
    """Of the workers that died; one that ended its pack on purpose has said why already."""
    return {
        rank: _reason(getattr(error, "health_check_failure", error))
        for rank, error in failures.items()
        if not isinstance(error, OutOfStepError)
    }


def _reason(error: BaseException) -> str:
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in str(error):
        return "Ray ended the worker because the node ran out of memory"
    if isinstance(error, ray.exceptions.RayActorError):
        return "the worker process died"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
