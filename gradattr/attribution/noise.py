"""Random numbers that depend on the sample and the copy alone, never on the batch.

Every draw has a seed of its own, ``derive_seed(sample seed, purpose, copy number)``. So the noise
on an image is the same in any batch, shard, order or attempt, and two methods that ask for the
same copies get the same copies. Two smaller choices follow from that:

- draws are made in float32 and converted, so that a float64 run sees the noise of the float32 run;
- draws are made on the device of ``x``. A CPU and a GPU have different generators, so their noise
  differs; everything on one kind of device agrees.

Methods with different noise levels share their standard normal draws (common random numbers):
sigma scales the noise and does not change its direction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradattr.seeds import derive_seed

#: Doubles have 53 bits between 0 and 1; seeds have 63.
_DROP_BITS = 63 - 53


def standard_normal(x: Tensor, seeds: Sequence[int], purpose: str, copy: int = 0) -> Tensor:
    """N(0, 1) tensor shaped like ``x`` (n, ...), row i from ``seeds[i]``."""
    return _rows(x, seeds, purpose, copy, uniform=False)


def standard_uniform(x: Tensor, seeds: Sequence[int], purpose: str, copy: int = 0) -> Tensor:
    """U[0, 1) tensor shaped like ``x`` (n, ...), row i from ``seeds[i]``."""
    return _rows(x, seeds, purpose, copy, uniform=True)


def uniform_numbers(seeds: Sequence[int], purpose: str, copy: int = 0) -> list[float]:
    """One number of U[0, 1) per sample; the same on every device."""
    return [(derive_seed(seed, purpose, copy) >> _DROP_BITS) / 2.0**53 for seed in seeds]


def choices(seeds: Sequence[int], purpose: str, count: int, copy: int = 0) -> list[int]:
    """One index of 0..count-1 per sample; the same on every device."""
    return [derive_seed(seed, purpose, copy) % count for seed in seeds]


def _rows(x: Tensor, seeds: Sequence[int], purpose: str, copy: int, *, uniform: bool) -> Tensor:
    generator = torch.Generator(x.device)
    rows = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    for row, seed in zip(rows, seeds, strict=True):
        generator.manual_seed(derive_seed(seed, purpose, copy))
        if uniform:
            row.uniform_(generator=generator)
        else:
            row.normal_(generator=generator)
    return rows.to(x.dtype)
