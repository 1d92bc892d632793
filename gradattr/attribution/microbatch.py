"""How many model evaluations at once: chosen from memory, never from a clock.

Beyond a certain size a batch gains nothing and takes memory, and when its activations leave the
caches and the allocator's reach it loses. So the size follows from what one example keeps for the
backward pass: the same model and input give the same batch on every worker.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.target import logit
from gradattr.errors import ShardError

T = TypeVar("T")

#: Bytes of activations kept for the backward pass at once. On a CPU this gives 8 images of 224
#: pixels in a ResNet-18 and 128 of 32 pixels in a ResNet-20, where throughput is flat.
CPU_BUDGET = 128 * 2**20
#: Below 8 images the weights are read too often for too little work: worth more memory, up to this.
SMALL_BATCH = 8
CPU_BUDGET_OF_SMALL_BATCH = 2**30
#: Without a backward pass activations are gone at once, and a batch that stays near the caches is
#: faster: a ResNet-20 at 32 pixels by a quarter. Where weights are many, reading them costs more.
CPU_BUDGET_OF_FORWARDS = 32 * 2**20
CUDA_SHARE_OF_TOTAL = 0.25
CUDA_SHARE_OF_FREE = 0.5

LARGEST_BATCH = {"cpu": 512, "cuda": 2048}

_SIGNS_OF_EXHAUSTION = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
)


def activation_bytes(evaluator: Evaluator, example: Tensor) -> int:
    """Bytes that one more example (1, ...) in the batch keeps for its backward pass.

    The difference between two examples and one, so that weights do not count.
    """
    one = example[:1].clone()
    return max(1, _saved_bytes(evaluator, torch.cat([one, one])) - _saved_bytes(evaluator, one))


def choose_micro_batch(
    evaluator: Evaluator, example: Tensor, device: torch.device | None = None
) -> int:
    """The number of evaluations at once: a power of two whose activations fit the budget.

    ``example`` (n, ...) stands for the inputs to come; only its first row is used.
    """
    device = device or example.device
    batch = LARGEST_BATCH.get(device.type, LARGEST_BATCH["cpu"])
    needed = activation_bytes(evaluator, example.to(device))
    while batch > 1 and batch * needed > _budget(device, batch):
        batch //= 2
    return batch


def choose_forward_batch(
    evaluator: Evaluator, example: Tensor, device: torch.device | None = None
) -> int:
    """The number of evaluations at once where no gradients are taken: on a CPU a smaller one, for
    models with few weights and large activations; else that of ``choose_micro_batch``."""
    device = device or example.device
    batch = choose_micro_batch(evaluator, example, device)
    if device.type != "cpu":
        return batch
    needed = activation_bytes(evaluator, example.to(device))
    weights = sum(p.numel() * p.element_size() for p in evaluator.network.parameters())
    while batch > SMALL_BATCH and batch * needed > max(CPU_BUDGET_OF_FORWARDS, 2 * weights):
        batch //= 2
    return batch


def halve_on_oom(work: Callable[[int], T], batch_size: int, *, halvings: int = 4) -> tuple[T, int]:
    """Run ``work(batch_size)``; on running out of memory again with half, at most ``halvings``
    times. Returns the result and the batch size that worked.

    Raises ShardError, naming the batch size, if memory does not suffice; other errors pass.
    """
    first = batch_size
    for left in range(halvings, -1, -1):
        problem = None
        try:
            return work(batch_size), batch_size
        except Exception as error:  # told apart below
            if not is_out_of_memory(error):
                raise
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Outside the except clause: the traceback, and the tensors of its frames, are gone.
        _release_memory()
        if left == 0 or batch_size == 1:
            break
        batch_size //= 2
    raise ShardError(
        f"out of memory at batch size {batch_size} (the first try was {first}): {problem}. "
        "Give the worker more memory, or fewer workers per machine"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS_OF_EXHAUSTION)


def _saved_bytes(evaluator: Evaluator, x: Tensor) -> int:
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def back(kept: Any) -> Any:
        return kept

    h = evaluator.stem(x)
    index = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with torch.autograd.graph.saved_tensors_hooks(note, back):
        evaluator.gradients(h, index, logit)
    return sum(saved.values()) + h.numel() * h.element_size()


def _budget(device: torch.device, batch: int) -> float:
    if device.type != "cuda":
        return CPU_BUDGET if batch > SMALL_BATCH else CPU_BUDGET_OF_SMALL_BATCH
    free, total = torch.cuda.mem_get_info(device)
    return min(total * CUDA_SHARE_OF_TOTAL, free * CUDA_SHARE_OF_FREE)


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
