r"""How well a map finds a region: an object that the class is about, a patch, a shortcut.

With the score of a pixel :math:`s_p = \sum_c |A_{c,p}|` and the region's mask M of K pixels:

- **pointing game** (Zhang et al. 2018): is the highest pixel in M, or at most ``tolerance`` pixels
  away from it (Euclidean distance between pixel centres)?
- **relevance mass accuracy** (Arras et al. 2022): :math:`\sum_{p \in M} s_p / \sum_p s_p`;
- **relevance rank accuracy** (ibid.): the part of the K highest pixels that is in M;
- **top-k share**: the part of the highest pixels at a level that is in M (`leakage`);
- **AUC** of the score as a classifier of M: the probability that a pixel of M has a higher score
  than one outside, equal scores counting half.

Higher is better where the region is what should be found, and worse where it is a shortcut. Chance
gives the region's share of all pixels; 0.5 for the AUC.

**Equal scores** count with their expectation under a random order, so all numbers are exact and
need no random ones: a map that is constant, but not 0, gives what chance gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.errors import UsageError
from gradattr.metrics.leakage import leakage, top_share

#: Pixels looked at together around highest ones: some tens of megabytes.
_AT_ONCE = 2**20


class Localisation(NamedTuple):
    """Of n images and L levels; float64 on the CPU, all from 0 to 1.

    NaN where the mask is empty or full (nothing is to be found), or where the map is not finite or
    0 everywhere.
    """

    pointing: Tensor
    """(n,): 1 for a hit, 0 for a miss; the part of them that hits where several are highest."""
    mass: Tensor
    """(n,): relevance mass accuracy."""
    rank: Tensor
    """(n,): relevance rank accuracy."""
    shares: Tensor
    """(n, L): top-k shares."""
    auc: Tensor
    """(n,): below 0.5 where the map avoids the region."""


def localisation(
    maps: Tensor, masks: Tensor, *, tolerance: float = 0, levels: Sequence[float] = ()
) -> Localisation:
    """How well maps (n, c, h, w) find the regions of masks (n, h, w), booleans.

    ``tolerance`` in pixels, 0 or more (Zhang et al. take 15 on whole photographs); ``levels`` in
    (0, 1] as in `leakage`. Raises UsageError for what does not fit.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"localisation: tolerance {tolerance}; expected 0 or more pixels")
    maps, masks = maps.detach().cpu(), masks.bool().cpu()
    found = leakage(maps, masks, levels)
    sizes = masks.flatten(1).sum(1)
    pixels = math.prod(masks.shape[1:])
    known = (sizes > 0) & (sizes < pixels) & ~found.mass_ratio.isnan()
    scores = maps[known].double().abs().sum(1).flatten(1)
    marked = masks[known].flatten(1)
    ascending, order = scores.sort(dim=1)
    highest = scores == ascending[:, -1:]
    near = _near(masks[known], highest.view(masks[known].shape), tolerance).flatten(1)
    per_image = (
        (highest & near).sum(1).double() / highest.sum(1),
        found.mass_ratio[known],
        top_share(scores, marked, ascending.flip(1), sizes[known].double()),
        found.shares[known],
        _auc(ascending, marked.gather(1, order)),
    )
    return Localisation(*(_at(known, each) for each in per_image))


def _at(known: Tensor, values: Tensor) -> Tensor:
    """Values of the known images at their places, NaN at the others."""
    every = values.new_full((len(known), *values.shape[1:]), torch.nan)
    every[known] = values
    return every


def _auc(ascending: Tensor, marked: Tensor) -> Tensor:
    """(n,): Mann and Whitney's U over its maximum, for sorted scores (n, pixels)."""
    n, pixels = ascending.shape
    places = torch.arange(1, pixels + 1).expand(n, -1)
    # Equal scores stand together: their average rank is halfway between the first and the last.
    steps = ascending[:, 1:] != ascending[:, :-1]
    edge = torch.ones(n, 1, dtype=torch.bool)
    first = torch.where(torch.cat([edge, steps], 1), places, 0).cummax(1).values
    ends = torch.where(torch.cat([steps, edge], 1), places, pixels)
    last = ends.flip(1).cummin(1).values.flip(1)
    inside = marked.sum(1).double()
    ranks = ((first + last) * marked).sum(1).double() / 2
    surplus = ranks - inside * (inside + 1) / 2
    return surplus / (inside * (pixels - inside))


def _near(masks: Tensor, looked_at: Tensor, tolerance: float) -> Tensor:
    """(n, h, w): of the pixels looked at, those at most so far from a marked one."""
    h, w = masks.shape[1:]
    rows, columns = _reach(tolerance, h), _reach(tolerance, w)
    disk = (rows[:, None] ** 2 + columns**2 <= tolerance**2).nonzero()
    down, right = rows[disk[:, 0]], columns[disk[:, 1]]
    near = torch.zeros_like(masks)
    for some in torch.split(looked_at.nonzero(), max(1, _AT_ONCE // len(disk))):
        image, y, x = (each[:, None] for each in some.unbind(1))
        # Outside of the image, the edge is looked at again: it is no further away.
        there = masks[image, (y + down).clamp(0, h - 1), (x + right).clamp(0, w - 1)]
        near[some.unbind(1)] = there.any(1)
    return near


def _reach(tolerance: float, size: int) -> Tensor:
    """Steps along one axis that stay within the tolerance, and inside of an image of this size."""
    most = math.floor(min(tolerance, size - 1))
    return torch.arange(-most, most + 1)
