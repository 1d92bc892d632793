"""How far two sets of maps of the same images agree in what they call important."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Share of the coordinates that count as the top of a map.
TOP_SHARE = 0.1


class Agreement(NamedTuple):
    """Per image (n,), float64: rank correlation of magnitudes, overlap of the top 10 %."""

    spearman: Tensor
    top_overlap: Tensor


def agreement(reference: Tensor, maps: Tensor) -> Agreement:
    """Compare maps (n, ...) with reference maps (n, ...) of the same images.

    ``spearman`` is Spearman's correlation of |map| over all coordinates of an image, ties at their
    average rank; 1 for two constant maps, 0 if one alone is constant. ``top_overlap`` is the share
    of the reference's top 10 % of coordinates by |map| that are in the other's top 10 %.

    Raises ValueError for different shapes.
    """
    if reference.shape != maps.shape:
        raise ValueError(f"maps {tuple(maps.shape)} are compared with {tuple(reference.shape)}")
    pairs = [(a, b) for a, b in zip(_magnitudes(reference), _magnitudes(maps), strict=True)]
    return Agreement(
        torch.tensor([_spearman(a, b) for a, b in pairs], dtype=torch.float64),
        torch.tensor([_top_overlap(a, b) for a, b in pairs], dtype=torch.float64),
    )


def _magnitudes(maps: Tensor) -> Tensor:
    return maps.detach().abs().flatten(1).double().cpu()


def centred_ranks(values: Tensor) -> Tensor:
    """Ranks of values (n, d) within their rows, float64, ties at their average, mean 0."""
    ordered, order = values.sort(dim=1)
    d = values.shape[1]
    place = torch.arange(d, device=values.device).expand(values.shape)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    if bool(new.all()):
        return torch.empty_like(ordered, dtype=torch.float64).scatter_(
            1, order, place.double() - (d - 1) / 2
        )
    first = torch.where(new, place, 0).cummax(1).values
    last_of_group = torch.ones_like(new)
    last_of_group[:, :-1] = new[:, 1:]
    last = torch.where(last_of_group, place, d).flip(1).cummin(1).values.flip(1)
    average = (first + last).double() / 2 - (d - 1) / 2
    return torch.empty_like(average).scatter_(1, order, average)


def _spearman(a: Tensor, b: Tensor) -> float:
    ranks_a, ranks_b = centred_ranks(torch.stack([a, b]))
    spread = float(ranks_a.norm() * ranks_b.norm())
    if spread == 0:
        return float(not ranks_a.any() and not ranks_b.any())
    return float(ranks_a @ ranks_b) / spread


def _top_overlap(a: Tensor, b: Tensor) -> float:
    count = max(1, round(TOP_SHARE * len(a)))
    top_a, top_b = a.topk(count).indices, b.topk(count).indices
    return float(torch.isin(top_a, top_b).double().mean())
