"""The processes that train one model together, or one process alone.

Every process holds the whole data set and draws the same order and augmentation; of each batch it
computes its share. Gradients are averaged by DistributedDataParallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradattr.errors import UsageError


@dataclass(frozen=True)
class Team:
    """What a process knows of the others."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of(cls, distributed: bool) -> Team:
        """The default process group of torch.distributed, or a team of one.

        Raises UsageError if there is no process group.
        """
        if not distributed:
            return cls()
        if not (dist.is_available() and dist.is_initialized()):
            raise UsageError(
                "distributed training was asked for in a process without a process group; call "
                "torch.distributed.init_process_group first, or train with distributed=False"
            )
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that keeps checkpoints and reports."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model to train: its parameters and buffers become those of rank 0, and its
        gradients the mean over the processes."""
        if self.size == 1:
            return model
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def share(self, count: int) -> tuple[slice, float]:
        """Of a batch of ``count`` images: (this process' images, weight of their sum of losses).

        Shares differ by one image at most and have two at least, because batch-norm cannot
        normalise one. Where a batch is too small for that, the last processes take part with its
        first images and weight 0. The weight undoes the mean over processes, so that gradients
        are those of the batch's mean loss.
        """
        active = min(self.size, max(1, count // 2))
        if self.rank >= active:
            return slice(0, 2), 0.0
        start, end = (count * place // active for place in (self.rank, self.rank + 1))
        return slice(start, end), self.size / count

    def sum(self, values: Sequence[Tensor], device: torch.device) -> list[float]:
        """Sums over the processes of scalars, in float64."""
        total = torch.stack([value.to(device, torch.float64) for value in values])
        if self.size > 1:
            dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes."""
        if self.size == 1:
            return flag
        return self.sum([torch.tensor(float(flag))], device)[0] > 0

    def from_leader(self, value: Any) -> Any:
        """Rank 0's value, a picklable object."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of rank 0: batch-norm's statistics are each one's own."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)
