"""How well an estimate of effects agrees with the exact ones, prompt by prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor


@dataclass(frozen=True)
class Faithfulness:
    """Of n prompts, each over all its sites and positions. float64."""

    l2: Tensor
    """(n,) ||estimate - exact||: 0 is best."""
    relative_l2: Tensor
    """(n,) that over ||exact||: 1 is what an estimate of 0 gets; NaN where nothing has an
    effect."""
    spearman: Tensor
    """(n,) rank correlation, ties at their average rank; NaN where either is constant."""


def faithfulness(estimate: Tensor, exact: Tensor, real: Tensor) -> Faithfulness:
    """Compare effects (n, sites, L); ``real`` (n, L): positions that are no padding."""
    if not estimate.shape == exact.shape == (len(real), exact.shape[1], real.shape[1]):
        raise ValueError(
            f"effects {tuple(estimate.shape)} and {tuple(exact.shape)} of positions "
            f"{tuple(real.shape)}: expected (n, sites, L) twice, and (n, L)"
        )
    rows = []
    for one, other, kept in zip(estimate, exact, real, strict=True):
        a, b = one[:, kept].flatten().double(), other[:, kept].flatten().double()
        distance, size = (a - b).norm(), b.norm()
        relative = distance / size if size > 0 else torch.full_like(size, torch.nan)
        rows.append(torch.stack([distance, relative, _spearman(a, b).to(size)]))
    table = torch.stack(rows)
    return Faithfulness(table[:, 0], table[:, 1], table[:, 2])


def _spearman(a: Tensor, b: Tensor) -> Tensor:
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return torch.tensor(torch.nan)
    ranks = [torch.from_numpy(rankdata(values.cpu().numpy())) for values in (a, b)]
    one, two = (rank - rank.mean() for rank in ranks)
    size = one.norm() * two.norm()
    return one @ two / size if size > 0 else torch.tensor(torch.nan)
