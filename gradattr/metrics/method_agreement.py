r"""How far methods agree about the same images: every method against every other.

Maps are compared by pixel, so that maps of one channel and of three can be: by the values
:math:`\sum_c A_{c,p}`, and by the magnitudes :math:`s_p = \sum_c |A_{c,p}|`. Agreement is no
evidence that any of them is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.agreement import TOP_SHARE, centred_ranks
from gradattr.errors import UsageError


class MethodAgreement(NamedTuple):
    """Of m methods: (n, m, m) per image, or (m, m) on the mean; float64 on the CPU, symmetric.

    NaN, on the diagonal too, where one of the two maps ranks nothing: it is constant, or not
    finite. Else 1 on the diagonal.
    """

    values: Tensor
    """Spearman's correlation of the pixels' values, -1 to 1, ties at their average rank."""
    magnitudes: Tensor
    """Spearman's correlation of the pixels' magnitudes, -1 to 1."""
    top_overlap: Tensor
    """Part of the highest pixels by magnitude that two methods share, 0 to 1. Chance gives the
    share of pixels that are highest. Pixels that are equal at the last place count with their
    expectation under random orders, independent for the two methods."""


def method_agreement(maps: Sequence[Tensor], *, top: float = TOP_SHARE) -> MethodAgreement:
    """Agreement of ``maps``, one entry (n, c, h, w) or (n, 1, h, w) per method, image by image.

    ``top`` in (0, 1] is the share of the pixels that count as highest, one at least. Every map is
    ranked once, whatever the number of methods. Raises UsageError for what does not fit.
    """
    if not maps:
        raise UsageError("method agreement: no maps were given, expected those of a method or more")
    shapes = [tuple(each.shape) for each in maps]
    images = {(shape[0], *shape[2:]) for shape in shapes if len(shape) == 4}
    if len(images) != 1 or any(len(shape) != 4 for shape in shapes):
        raise UsageError(
            f"method agreement: maps of shapes {shapes}; expected (n, c, h, w) of the same images"
        )
    if not 0 < top <= 1:
        raise UsageError(f"method agreement: top {top} was given, expected a share in (0, 1]")
    n, m = len(maps[0]), len(maps)
    found = MethodAgreement(*(torch.empty(n, m, m, dtype=torch.float64) for _ in range(3)))
    for at in range(n):
        one = [each[at].detach().double().cpu() for each in maps]
        values = torch.stack([each.sum(0).flatten() for each in one])
        magnitudes = torch.stack([each.abs().sum(0).flatten() for each in one])
        found.values[at] = _spearman(values)
        found.magnitudes[at] = _spearman(magnitudes)
        found.top_overlap[at] = _overlap(magnitudes, top)
    return found


def mean_agreement(found: MethodAgreement) -> MethodAgreement:
    """(m, m): mean over the images for which there is a value, NaN where there is none."""
    return MethodAgreement(*(each.nanmean(0) for each in found))


def _ranks_nothing(scores: Tensor) -> Tensor:
    """(m,): rows of scores (m, d) that are constant or not finite."""
    return ~torch.isfinite(scores).all(1) | (scores == scores[:, :1]).all(1)


def _spearman(scores: Tensor) -> Tensor:
    """(m, m) for scores (m, d)."""
    nothing = _ranks_nothing(scores)
    ranks = centred_ranks(scores.nan_to_num())
    ranks = ranks / ranks.norm(dim=1, keepdim=True)
    return _completed((ranks @ ranks.T).clamp(-1, 1), nothing)


def _overlap(scores: Tensor, top: float) -> Tensor:
    nothing = _ranks_nothing(scores)
    kept = max(1, round(top * scores.shape[1]))
    last = scores.topk(kept, dim=1).values[:, -1:]
    above, tied = scores > last, scores == last
    # How likely a pixel is among the highest, under a random order of equal ones.
    free = kept - above.sum(1, keepdim=True)
    likely = above.double() + tied * (free / tied.sum(1, keepdim=True).double())
    return _completed(likely @ likely.T / kept, nothing)


def _completed(table: Tensor, nothing: Tensor) -> Tensor:
    """Exactly symmetric, 1 on the diagonal, NaN for the methods that rank nothing."""
    table = (table + table.T) / 2
    table.fill_diagonal_(1)
    return table.masked_fill(nothing[:, None] | nothing[None], torch.nan)
