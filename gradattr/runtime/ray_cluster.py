"""Finding or starting Ray, and saying in time what is missing. ``ray`` is imported here only
after the environment that it reads at import has been set."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from gradattr.errors import UsageError
from gradattr.manifest.operation import Runtime
from gradattr.runtime.reach import check_reachable
from gradattr.runtime.session_folder import session_folder

#: Bytes. Only contexts and outcomes travel through the object store.
OBJECT_STORE_BYTES = 100 * 1024 * 1024


def _set_environment() -> None:
    # Ray retries a task that ran out of memory without end unless told otherwise, and with
    # `uv run` it would rebuild the environment for each worker.
    os.environ.setdefault("RAY_task_oom_retries", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")


def _set_own_token() -> None:
    # A Ray without a token runs anybody's code. Left alone, ray.init() would write a token file
    # that others on the machine can read; a token in the environment is inherited by the
    # processes that Ray starts and by nobody else.
    if "RAY_AUTH_MODE" in os.environ:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray reads both when it is imported; where that has happened already, it has to look again.
    raylet: Any = import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def connect(runtime: Runtime) -> Iterator[str]:
    """Connect to, or start, the Ray that the manifest names; yield a description of it.

    A Ray that is already initialised in this process is used and left running. Raises UsageError
    if the address cannot be reached.
    """
    _set_environment()
    address = runtime.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _set_own_token()
    import ray

    if ray.is_initialized():
        yield "the Ray of this process"
        return
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "error",
        "configure_logging": True,
    }
    with ExitStack() as stack:
        folder = stack.enter_context(session_folder()) if address == "local" else None
        # Before anything is started, so that an interrupted start is cleaned up too.
        stack.callback(ray.shutdown)
        if folder is not None:
            ray.init(
                address="local",
                num_cpus=_local_cpus(runtime),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                # Ray lets everybody into its folder; ours, around it, lets nobody.
                _temp_dir=str(folder / "r"),
                **quiet,
            )
            yield f"a local Ray, {int(ray.cluster_resources().get('CPU', 0))} CPUs"
            return
        check_reachable(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"runtime.address {address}: cannot connect ({_first_line(error)}). Is the "
                "cluster up, is the port right, and is RAY_AUTH_TOKEN the cluster's token?"
            ) from None
        yield f"the cluster at {address}"


def _local_cpus(runtime: Runtime) -> int | None:
    if runtime.workers == "auto":
        return None
    return max(1, round(runtime.workers * runtime.cpus_per_task))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_resources(runtime: Runtime) -> None:
    """Raise UsageError if no node can ever run one task, with the numbers of each node."""
    import ray

    wanted = {"CPU": runtime.cpus_per_task, "GPU": runtime.gpus_per_task}
    if runtime.task_memory is not None:
        wanted["memory"] = float(runtime.task_memory)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for node in nodes:
        if all(node.get(name, 0.0) >= amount for name, amount in wanted.items()):
            return
    need = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
    have = "; ".join(
        ", ".join(f"{node.get(name, 0.0):g} {name}" for name in wanted) for node in nodes
    )
    raise UsageError(
        f"no node of the cluster can run a task: it needs {need}; the nodes have {have}. "
        "Change runtime.cpus_per_task, runtime.gpus_per_task or runtime.task_memory"
    )
