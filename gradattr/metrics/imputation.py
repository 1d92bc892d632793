r"""Removed pixels filled in from those around them (Rong et al. 2022, ROAD).

A pixel that is set to a constant leaves a shape that a model can read. ROAD replaces each removed
pixel by the weighted mean of its neighbours, which may be removed themselves: one linear equation
per removed pixel i,

.. math:: \Big( \sum_{j \in N(i)} w_{ij} \Big) x_i - \sum_{j \in N(i)} w_{ij} x_j = 0,

with w = 1/6 for the four direct neighbours and 1/12 for the four diagonal ones; at the border the
neighbours that there are. The matrix is symmetric and, as long as one pixel is known, positive
definite; it is solved exactly (sparse LU factors in float64), for all channels at once.

Shapes: b images, c channels, h x w pixels, d = h w.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from gradattr.errors import UsageError

DIRECT, DIAGONAL = 1 / 6, 1 / 12

#: Pixels solved together: small images are joined into one system up to here, which saves calls.
TOGETHER = 4096


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images (b, c, h, w) with the pixels ``removed`` (b, h, w) filled in; dtype of the images.

    Solved on the CPU, in float64. Pixels that are not removed stay as they are, bit for bit.

    Raises UsageError for an image of which all pixels are removed, or shapes that do not fit.
    """
    if images.dim() != 4 or removed.shape != (len(images), *images.shape[2:]):
        raise UsageError(
            f"images of shape {tuple(images.shape)} with removed pixels {tuple(removed.shape)} "
            "were given, expected (b, c, h, w) and (b, h, w)"
        )
    pixels = removed.flatten(1).cpu().numpy()
    if pixels.all(axis=1).any():
        raise UsageError("an image has no pixel left to fill in the removed ones from")
    # Channels last: a right-hand side per channel.
    values = images.double().cpu().flatten(2).transpose(1, 2).numpy()
    joined = max(1, TOGETHER // max(1, pixels.shape[1]))
    filled = np.array(values, order="C")
    for first in range(0, len(values), joined):
        part = slice(first, first + joined)
        _fill_in(filled[part], pixels[part], images.shape[2], images.shape[3])
    result = torch.from_numpy(filled).transpose(1, 2).reshape(images.shape).to(images)
    return torch.where(removed[:, None].to(images.device), result, images)


def _fill_in(values: np.ndarray, removed: np.ndarray, h: int, w: int) -> None:
    """Solve for the removed (b, d) pixels of values (b, d, c), in place."""
    unknown = np.flatnonzero(removed)
    if not len(unknown):
        return
    equations = _equations(h, w, len(values))[unknown]
    flat = values.reshape(-1, values.shape[2])  # a view: values is contiguous
    at_known = np.where(removed.reshape(-1, 1), 0.0, flat)
    factors = splu(
        equations[:, unknown].tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,  # symmetric and diagonally dominant: no pivoting needed
        options={"SymmetricMode": True},
    )
    flat[unknown] = factors.solve(-(equations @ at_known))


@lru_cache(maxsize=8)
def _equations(h: int, w: int, copies: int) -> Any:
    """(copies d, copies d) CSR: every pixel's equation, image after image."""
    number = np.arange(h * w).reshape(h, w)
    rows, columns, weights = [], [], []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if (down, right) == (0, 0):
                continue
            here = number[max(0, -down) : h - max(0, down), max(0, -right) : w - max(0, right)]
            there = number[max(0, down) : h + min(0, down), max(0, right) : w + min(0, right)]
            rows.append(here.ravel())
            columns.append(there.ravel())
            weights.append(np.full(here.size, DIAGONAL if down and right else DIRECT))
    r, c, v = (np.concatenate(parts) for parts in (rows, columns, weights))
    between = sparse.csr_matrix((v, (r, c)), shape=(h * w, h * w))
    sums = np.asarray(between.sum(axis=1)).ravel()
    one = (sparse.diags(sums) - between).tocsr()
    return one if copies == 1 else sparse.block_diag([one] * copies, format="csr")
