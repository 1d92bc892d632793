r"""Feature leakage: how much of an attribution lies where there can be no signal.

An image's mask marks its null region: pixels that say nothing about the label (or a patch that was
painted into it: the same numbers then say how much of the map lies in the shortcut). With the score
of a pixel :math:`s_p = \sum_c |A_{c,p}|`, the top-k share is the marked part of the k
highest-ranked pixels, and the mass ratio :math:`\sum_{p \in null} s_p / \sum_p s_p`. Lower is
better; a map that knows nothing of the region gives the region's share of all pixels (Shah et al.
2021 use the first as a proxy on BlockMNIST, where that is one half).

Shapes: n images, c channels, h x w pixels, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradattr.errors import UsageError
from gradattr.retraining.ranks import kept_count


@dataclass(frozen=True)
class Leakage:
    """What was found of n images; float64. NaN where the map is not finite, or 0 everywhere."""

    shares: Tensor
    """(n, L): marked part of the highest-ranked pixels at each level, 0 to 1."""
    mass_ratio: Tensor
    """(n,): marked part of the sum of |map|, 0 to 1."""
    region_share: Tensor
    """(n,): marked part of all pixels: what chance gives. Never NaN."""


def leakage(maps: Tensor, masks: Tensor, levels: Sequence[float]) -> Leakage:
    """Leakage of maps (n, c, h, w) into masks (n, h, w) of booleans, True in the null region.

    A level k in (0, 1] stands for the ``hw - round((1 - k) hw)`` highest-ranked of the hw pixels,
    and for one pixel at least. Pixels with equal scores at the last place count with their
    expected share under a random order: the result is exact, and needs no random numbers.

    Raises UsageError for shapes or levels that do not fit.
    """
    if maps.dim() != 4 or masks.shape != (maps.shape[0], *maps.shape[2:]):
        raise UsageError(
            f"leakage: maps of shape {tuple(maps.shape)}, masks of {tuple(masks.shape)}; "
            "expected (n, c, h, w) and (n, h, w)"
        )
    wrong = [level for level in levels if not 0 < level <= 1]
    if wrong:
        raise UsageError(f"leakage: level {wrong[0]} was given, expected one in (0, 1]")
    scores = maps.double().abs().sum(1).flatten(1)
    marked = masks.bool().flatten(1)
    total = scores.sum(1)
    known = torch.isfinite(total) & (total > 0)
    scores = torch.where(known[:, None], scores, 0)
    descending = scores.sort(dim=1, descending=True).values
    pixels = scores.shape[1]
    shares = [
        top_share(
            scores, marked, descending, torch.full_like(total, max(1, kept_count(pixels, level)))
        )
        for level in levels
    ]
    stacked = torch.stack(shares, 1) if shares else scores.new_empty(len(scores), 0)
    nan = torch.full_like(total, torch.nan)
    ratio = (scores * marked).sum(1) / scores.sum(1)
    return Leakage(
        shares=torch.where(known[:, None], stacked, nan[:, None]),
        mass_ratio=torch.where(known, ratio, nan),
        region_share=marked.double().mean(1),
    )


def top_share(scores: Tensor, marked: Tensor, descending: Tensor, kept: Tensor) -> Tensor:
    """(n,): expected marked part of the ``kept`` (n,) highest of scores (n, pixels), under a random
    order of equal scores.

    ``descending`` (n, pixels) are the scores, sorted; ``marked`` (n, pixels) booleans; ``kept`` is
    1 or more.
    """
    last = descending.gather(1, kept.long()[:, None] - 1)
    above, tied = scores > last, scores == last
    free = kept - above.sum(1)
    among_tied = (tied & marked).sum(1).double() / tied.sum(1)
    return ((above & marked).sum(1) + free * among_tied) / kept
