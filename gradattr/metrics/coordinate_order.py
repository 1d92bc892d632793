"""The order in which a map gives the coordinates of its image: the most important first.

Two coordinates with equal scores have no order of their own (ReLU-ed maps are mostly zeros). The
order of their index would take the upper left corner first, which is background in most data sets
and so a better baseline than chance in one metric and a worse one in the other. So ties are broken
by a permutation that is drawn from the image's seed alone: the same for every method, at random
with respect to the image.

Shapes: p maps, c channels, h x w pixels, d coordinates ranked (h w, or c h w).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from gradattr.errors import UsageError
from gradattr.seeds import derive_seed

#: By what coordinates are ranked: the map's value, or its magnitude.
Rank = Literal["signed", "magnitude"]


def values_to_rank(maps: Tensor, *, per_pixel: bool = True, rank: Rank = "signed") -> Tensor:
    """Maps (p, c, h, w) -> float64 (p, 1, h, w), or (p, c, h, w) unless ``per_pixel``.

    A, or \\|A\\| with rank 'magnitude'; of pixels the sum over channels.
    """
    if rank not in ("signed", "magnitude"):
        raise UsageError(f"rank {rank!r} was given, expected 'signed' or 'magnitude'")
    values = (maps.abs() if rank == "magnitude" else maps).double()
    return values.sum(1, keepdim=True) if per_pixel else values


def descending_ranks(values: Tensor, seeds: Sequence[int]) -> Tensor:
    """Values (p, 1 or c, h, w) -> ranks of the same shape, int32; 0 is the largest value.

    ``seeds`` (p,): those of the images behind the maps. A map that is not finite is given some
    order, which means nothing; see ``known``.
    """
    flat = values.flatten(1)
    ordered, order = flat.sort(dim=1, descending=True)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    for row in tied.nonzero()[:, 0].tolist():
        shuffled = _permutation(seeds[row], flat.shape[1]).to(flat.device)
        order[row] = shuffled[flat[row, shuffled].sort(descending=True, stable=True).indices]
    places = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device)
    ranks = torch.empty_like(flat, dtype=torch.int32)
    return ranks.scatter_(1, order, places.expand_as(ranks)).view(values.shape)


def known(maps: Tensor) -> Tensor:
    """(p,) on the CPU: whether all of a map is finite."""
    return maps.flatten(1).isfinite().all(1).cpu()


def _permutation(seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "ties of a map"))
    return torch.randperm(size, generator=generator)
