"""Out of memory in a worker: half as many examples at a time, a bounded number of times; then the
shard fails and says at which batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.influence import Curvature, GradientProducts
from gradattr.work.tfa.loaded import Loaded

T = TypeVar("T")


def within_memory(loaded: Loaded, x: Tensor, y: Tensor, work: Callable[[], T]) -> T:
    """What ``work()`` returns; it is free of side effects and computes with ``loaded`` on examples
    like x (n, ...), y (n,). Where memory runs out it is done anew with smaller batches, which
    later tasks of this worker keep: what did not fit once will not fit then either.

    Raises ShardError, naming the batch size, if memory does not suffice; other errors pass.
    """
    if not len(x):
        return work()
    # Chooses the batch size, if nobody has asked for one.
    loaded.products.wiring(x, y)
    first = loaded.products.batch_size or 1

    def at(size: int) -> T:
        if size < first:
            _shrink(loaded, size)
        return work()

    return halve_on_oom(at, first)[0]


def _shrink(loaded: Loaded, size: int) -> None:
    everywhere: list[GradientProducts] = [loaded.products]
    everywhere += [products for own in loaded.checkpoints.values() for products, _ in own]
    for products in everywhere:
        products.batch_size = min(size, products.batch_size or size)
        products.report["batch_size"] = products.batch_size
    for value in loaded.kept.values():
        if isinstance(value, Curvature):
            value.batch_size = max(1, value.batch_size // 2)
