r"""DiffROAR's Theorem 1 as a measurement: gradient magnitude block by block.

On the data of eq. 2 (d blocks of m numbers, the label in one of the first d/2) the gradient of a
max-margin infinite-width MLP has equal magnitude on all first d/2 blocks, whichever of them holds
the signal of this image, and 0 on the other half. So its input gradients do not tell where the
signal is: they leak. Shapes: n images, d blocks, m numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.errors import UsageError


class BlockMagnitudes(NamedTuple):
    """Means over the images, after each image's blocks were divided by its largest."""

    signal: float
    """Of the block that holds the image's signal."""
    task: float
    """Of the other blocks that may hold a signal."""
    noise: float
    """Of the second half, which never does."""


def block_magnitudes(maps: Tensor, signal_block: Tensor) -> BlockMagnitudes:
    """Mean magnitude (l2 norm of a block) of maps (n, 1, d, m), by the role of the block.

    ``signal_block`` (n,) is each image's j, in [0, d/2). Raises UsageError for other shapes, and
    for a map that is 0 everywhere or not finite: it cannot be normalised.
    """
    if maps.dim() != 4 or maps.shape[1] != 1 or maps.shape[2] % 2 or maps.shape[2] < 4:
        raise UsageError(
            f"block magnitudes: maps of shape {tuple(maps.shape)}; expected (n, 1, d, m), d even "
            "and 4 or more"
        )
    half = maps.shape[2] // 2
    if signal_block.shape != maps.shape[:1] or not bool(
        ((signal_block >= 0) & (signal_block < half)).all()
    ):
        raise UsageError(
            f"block magnitudes: signal blocks {tuple(signal_block.shape)}; expected one of 0 to "
            f"{half - 1} for each of {len(maps)} maps"
        )
    magnitude = maps.double().squeeze(1).norm(dim=2)
    largest = magnitude.amax(1, keepdim=True)
    bad = ~(torch.isfinite(largest) & (largest > 0))[:, 0]
    if bool(bad.any()):
        raise UsageError(
            f"block magnitudes: map {int(bad.nonzero()[0])} is 0 everywhere or not finite"
        )
    magnitude = magnitude / largest
    is_signal = torch.nn.functional.one_hot(signal_block, half).bool()
    task = magnitude[:, :half]
    return BlockMagnitudes(
        signal=task[is_signal].mean().item(),
        task=task[~is_signal].mean().item(),
        noise=magnitude[:, half:].mean().item(),
    )
