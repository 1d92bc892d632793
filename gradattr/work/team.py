"""Whether the processes that were started together work on one task."""

from __future__ import annotations

import torch

from gradattr.plan import Task


def together(task: Task) -> bool:
    """Whether this process is one of several that train the task's model together: the task asks
    for several workers, and so many share torch.distributed's default group."""
    workers = int(task.payload.get("workers", 1))
    distributed = torch.distributed
    if workers == 1 or not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_world_size() == workers


def leads(task: Task) -> bool:
    """Whether this process is the one that writes: alone, or the first of its team."""
    return not together(task) or torch.distributed.get_rank() == 0


def agreed(task: Task, value: bool) -> bool:
    """The first process' ``value``, for all of a team: what they saw of the store may differ."""
    if not together(task):
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
