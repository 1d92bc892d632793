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
from torch.nn import functional as F

from gradattr.errors import UsageError
from gradattr.metrics.leakage import leakage, top_share

#: Images whose distances are looked at together: one at a time saves memory, not time.
_AT_ONCE = 64


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
    shapes = masks[known].shape
    scores = maps[known].double().abs().sum(1).flatten(1)
    marked = masks[known].flatten(1)
    ascending = scores.sort(dim=1).values
    highest = scores == ascending[:, -1:]
    near = _near(masks[known], tolerance).view(shapes).flatten(1)
    per_image = (
        (highest & near).sum(1).double() / highest.sum(1),
        found.mass_ratio[known],
        top_share(scores, marked, ascending.flip(1), sizes[known].double()),
        found.shares[known],
        _auc(scores, marked, ascending),
    )
    return Localisation(*(_at(known, each) for each in per_image))


def _at(known: Tensor, values: Tensor) -> Tensor:
    """Values of the known images at their places, NaN at the others."""
    every = values.new_full((len(known), *values.shape[1:]), torch.nan)
    every[known] = values
    return every


def _auc(scores: Tensor, marked: Tensor, ascending: Tensor) -> Tensor:
    """(n,): Mann and Whitney's U over its maximum, for scores (n, pixels)."""
    below = torch.searchsorted(ascending, scores)
    up_to = torch.searchsorted(ascending, scores, right=True)
    ranks = (below + up_to + 1).double() / 2  # of equal scores, their average
    inside = marked.sum(1).double()
    outside = scores.shape[1] - inside
    surplus = (ranks * marked).sum(1) - inside * (inside + 1) / 2
    return surplus / (inside * outside)


def _near(masks: Tensor, tolerance: float) -> Tensor:
    """(n, h, w): pixels at most so far from a marked one."""
    if tolerance < 1:
        return masks
    h, w = masks.shape[1:]
    reach = math.floor(min(tolerance, math.hypot(h, w)))
    near = masks.clone()
    for first in range(0, len(masks), _AT_ONCE):
        some = masks[first : first + _AT_ONCE].float()[:, None]
        for dy in range(-min(reach, h - 1), min(reach, h - 1) + 1):
            # A disk, row by row: as wide as the circle is at this height.
            half = min(math.isqrt(math.floor(tolerance**2 - dy**2)), w - 1)
            wide = F.max_pool2d(some, (1, 2 * half + 1), stride=1, padding=(0, half))
            wide = wide[:, 0].bool()
            rows = slice(max(0, dy), h + min(0, dy))
            from_rows = slice(max(0, -dy), h - max(0, dy))
            near[first : first + _AT_ONCE, rows] |= wide[:, from_rows]
    return near
