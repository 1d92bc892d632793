"""Which segments are there: the binary masks that LIME and KernelSHAP ask about.

All are drawn on the CPU, so that they are the same on every device.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor

from gradattr.seeds import derive_seed


def random_masks(seed: int, samples: int, segments: int) -> Tensor:
    """(samples, segments) bool: the first all there, in the others each with probability 1/2."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "lime"))
    masks = torch.rand(samples, segments, generator=generator) < 0.5
    masks[0] = True
    return masks


def enumerable(samples: int, segments: int) -> bool:
    """Whether so many samples cover every coalition but the empty and the full one."""
    return segments < 63 and 2**segments - 2 <= samples


def coalitions_evaluated(samples: int, segments: int) -> int:
    """How many coalitions ``coalitions`` returns."""
    return 2**segments - 2 if enumerable(samples, segments) else samples // 2 * 2


def coalitions(seed: int, samples: int, segments: int) -> tuple[Tensor, Tensor]:
    """Coalitions (k, segments) bool and their weights (k,) float64 in the regression.

    All of them with the Shapley kernel (m - 1) / (C(m, s) s (m - s)), where m is ``segments`` and
    s a coalition's size, if ``samples`` are enough; else ``samples // 2`` drawn with
    probabilities in proportion to the kernel, each with its complement, with equal weights.
    """
    sizes = range(1, segments)
    if enumerable(samples, segments):
        numbers = torch.arange(1, 2**segments - 1)
        masks = (numbers[:, None] >> torch.arange(segments)) % 2 == 1
        kernel = [(segments - 1) / (comb(segments, s) * s * (segments - s)) for s in sizes]
        weights = torch.tensor([0.0, *kernel], dtype=torch.float64)
        return masks, weights[masks.sum(1)]
    generator = torch.Generator().manual_seed(derive_seed(seed, "kernel_shap"))
    pairs = samples // 2
    share = torch.tensor([1 / (s * (segments - s)) for s in sizes], dtype=torch.float64).cumsum(0)
    drawn = torch.rand(pairs, generator=generator, dtype=torch.float64) * share[-1]
    size = torch.searchsorted(share, drawn, right=True).clamp(max=segments - 2) + 1
    rank = torch.rand(pairs, segments, generator=generator, dtype=torch.float64).argsort(1)
    masks = rank.argsort(1) < size[:, None]
    return torch.cat([masks, ~masks]), torch.ones(2 * pairs, dtype=torch.float64)
