"""How many tasks, or groups of tasks, nodes can hold at once. No Ray in here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gradattr.manifest.operation import Runtime

#: So that ten tenths of a CPU are one.
_ROUNDING = 1e-9

#: Independent workers of one pack at most: when one dies, Ray Train ends the others too, and what
#: they had under way is done again.
PACK_WORKERS = 16


def needs(runtime: Runtime) -> dict[str, float]:
    """What one task reserves, by Ray's names of resources."""
    wanted = {"CPU": runtime.cpus_per_task}
    if runtime.gpus_per_task:
        wanted["GPU"] = runtime.gpus_per_task
    if runtime.task_memory is not None:
        wanted["memory"] = float(runtime.task_memory)
    return wanted


def slots(nodes: Iterable[Mapping[str, float]], runtime: Runtime) -> int:
    """How many tasks fit on these nodes at once, ``runtime.workers`` at most.

    Counted node by node, since a task cannot use half a CPU here and half a CPU there; and GPU by
    GPU where a task takes a fraction of one.
    """
    fit = sum(_on_node(node, needs(runtime)) for node in nodes)
    return fit if runtime.workers == "auto" else min(fit, runtime.workers)


def _on_node(node: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    return min(_times(name, node.get(name, 0.0), amount) for name, amount in wanted.items())


def _times(name: str, have: float, amount: float) -> int:
    if name == "GPU" and amount < 1:
        return int(have + _ROUNDING) * int(1 / amount + _ROUNDING)
    return int(have / amount + _ROUNDING)


def describe(wanted: Mapping[str, float], times: int = 1) -> str:
    """'2 CPU, 0.5 GPU', for messages."""
    return ", ".join(f"{amount * times:g} {name}" for name, amount in wanted.items() if amount)


def pack_sizes(room: int, waiting: int, width: int) -> list[int]:
    """Workers of each pack to start for so many waiting tasks where ``room`` workers fit.

    ``width`` > 1: packs of that many, one task each at a time. Else: as few packs as
    PACK_WORKERS allows, of nearly equal size.
    """
    if width > 1:
        return [width] * min(room // width, waiting)
    workers = min(room, waiting)
    packs = -(-workers // PACK_WORKERS)
    return [(workers + number) // packs for number in range(packs)]
