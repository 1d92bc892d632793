"""Linear models fitted to the answers behind binary masks, in closed form and float64."""

from __future__ import annotations

import torch
from torch import Tensor

#: Directions in which the masks vary by less, relatively, are those in which they do not vary.
_RANK = 1e-11


def weighted_ridge(masks: Tensor, scores: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """(m,) coefficients b of min Σ_k w_k (y_k - b_0 - z_k b)² + ridge |b|², b_0 not penalised.

    ``masks`` z (k, m), ``scores`` y (k,), ``weights`` w (k,). Of equally good ones, the smallest.
    """
    z = masks.to(scores.dtype)
    share = weights / weights.sum()
    z = z - share @ z
    y = scores - share @ scores
    gram = (z * weights[:, None]).T @ z
    gram += ridge * torch.eye(len(gram), dtype=gram.dtype)
    return _inverse(gram) @ (z.T @ (weights * y))


def shapley_regression(masks: Tensor, gains: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """(m,) values v of min Σ_k w_k (g_k - z_k v)² under the constraint Σ_j v_j = ``total``.

    ``masks`` z (k, m), ``gains`` g (k,): score above the baseline's. The constraint holds exactly:
    v is the even split plus a part that adds up to 0. Where the masks leave values open, the
    solution nearest to the even split.
    """
    m = masks.shape[1]
    z = masks.to(gains.dtype)
    even = total / m
    rest = gains - z.sum(1) * even
    z = z - z.mean(1, keepdim=True)
    gram = (z * weights[:, None]).T @ z
    uneven = _inverse(gram) @ (z.T @ (weights * rest))
    return even + uneven - uneven.mean()


def _inverse(gram: Tensor) -> Tensor:
    return torch.linalg.pinv(gram, rtol=_RANK, hermitian=True)
