r"""How few pixels carry a map: sparseness, complexity, effective complexity.

With the score of a pixel :math:`s_p = \sum_c |A_{c,p}|` (so that maps of one channel and of three
can be compared; |A| itself for one channel), d pixels, and :math:`s_{(1)} \le \dots \le s_{(d)}`:

.. math::
    \text{Gini} &= 1 - 2 \sum_k \frac{s_{(k)}}{\sum_p s_p} \cdot \frac{d - k + 1/2}{d}
        && \text{(Chalasani et al. 2020)} \\
    \text{complexity} &= - \sum_p P_p \ln P_p, \quad P_p = s_p / \sum_q s_q
        && \text{(Bhatt et al. 2020)} \\
    \text{effective complexity} &= \#\{p : s_p > t \max_q s_q\}
        && \text{(Nguyen and Martinez 2020)}

None of them changes with the scale or the sign of the map, or with the order of its pixels. They
say how short an explanation is, not whether it is true: a map of one wrong pixel is the best.
Nguyen and Martinez count the features that the prediction needs; what is counted here, as in
Quantus, are the pixels that the map names.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.errors import UsageError

#: Share of the largest score above which a pixel counts (as in Quantus).
THRESHOLD = 1e-5


class Complexity(NamedTuple):
    """Per image (n,), float64 on the CPU; NaN where the map is not finite, or 0 everywhere."""

    sparseness: Tensor
    """Gini index, 0 (all pixels equal) to 1 - 1/d (one pixel alone). Higher is better."""
    complexity: Tensor
    """Entropy in nats, 0 (one pixel alone) to ln d (all equal). Lower is better."""
    effective: Tensor
    """Pixels above the threshold, 1 to d. Lower is better."""


def complexity(maps: Tensor, *, threshold: float = THRESHOLD) -> Complexity:
    """The three numbers of maps (n, c, h, w).

    ``threshold`` in [0, 1) is relative to the largest score of the image. Raises UsageError for
    other shapes or thresholds.
    """
    if maps.dim() != 4:
        raise UsageError(f"complexity: maps of shape {tuple(maps.shape)}; expected (n, c, h, w)")
    if not 0 <= threshold < 1:
        raise UsageError(f"complexity: threshold {threshold} was given, expected one in [0, 1)")
    scores = maps.detach().double().abs().sum(1).flatten(1).cpu()
    pixels = scores.shape[1]
    if not pixels:
        raise UsageError(f"complexity: maps of shape {tuple(maps.shape)} have no pixel")
    largest = scores.amax(1)
    known = torch.isfinite(scores).all(1) & (largest > 0)
    # Divided by the largest first: tiny scores keep their digits, and huge ones do not overflow.
    scores = scores / largest[:, None]
    shares = scores / scores.sum(1, keepdim=True)
    places = (pixels - torch.arange(1, pixels + 1, dtype=torch.float64) + 0.5) / pixels
    gini = 1 - 2 * (shares.sort(1).values @ places)
    found = (
        gini.clamp_min(0),  # rounding, where all are equal
        torch.special.entr(shares).sum(1),
        (scores > threshold).sum(1).double(),
    )
    nan = torch.full_like(largest, torch.nan)
    return Complexity(*(torch.where(known, each, nan) for each in found))
