"""How far a path's baseline is from the image, as a person would see the two.

What a baseline should be is disputed. UNI's claim is that one nearby is enough where confidence is
gone; a black image is far away and unlike any that the model was trained on. So three distances
stand beside the fall of confidence: none of them makes a baseline a good one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization, per_channel
from gradattr.errors import UsageError
from gradattr.metrics.map_change import structural_similarity


class BaselineDistance(NamedTuple):
    """Per image (n,), float64 on the CPU; of pixels, in which black is 0 and white 1. NaN where the
    baseline is not finite."""

    l2: Tensor
    """0 or more: ||x' - x|| / ||x||; 1 for the black baseline. NaN for a black image."""
    linf: Tensor
    """0 or more: the largest change of a value; 1 is from black to white."""
    ssim: Tensor
    """-1 to 1: mean structural similarity over windows and channels (Wang et al. 2004); NaN for
    images below 3 pixels in height or width."""


def baseline_distance(
    x: Tensor, baselines: Tensor, normalization: Normalization | None = None
) -> BaselineDistance:
    """Distances of ``baselines`` (n, c, h, w) from x (n, c, h, w), both in the space of the model's
    input; ``normalization`` says which pixels they are. Raises UsageError for shapes that differ.
    """
    if x.dim() != 4 or x.shape != baselines.shape:
        raise UsageError(
            f"baselines of shape {tuple(baselines.shape)} for images {tuple(x.shape)}; expected "
            "(n, c, h, w) twice"
        )
    images, starts = (_pixels(one, normalization or Normalization()) for one in (x, baselines))
    change = (starts - images).flatten(1)
    size = images.flatten(1).norm(dim=1)
    known = torch.isfinite(change).all(1).cpu()
    l2 = (change.norm(dim=1) / size).masked_fill(size == 0, torch.nan).cpu()
    linf = change.abs().amax(1).cpu()
    likeness = structural_similarity(images, starts, data_range=1)
    return BaselineDistance(*(one.masked_fill(~known, torch.nan) for one in (l2, linf, likeness)))


def _pixels(x: Tensor, normalization: Normalization) -> Tensor:
    black, white = (per_channel(v, x) for v in (normalization.black, normalization.white))
    return (x.double() - black.double()) / (white.double() - black.double())
