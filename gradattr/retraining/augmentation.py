"""Random crops and flips of whole batches as tensor operations.

Shapes: n images, c channels, h x w pixels, p pixels of padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gradattr.retraining.recipe import Augmentation
from gradattr.seeds import derive_seed


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of n images, on the CPU."""

    top: Tensor
    """(n,) int64 in [0, 2p]: first row of the crop in the padded image; p is no shift."""
    left: Tensor
    """(n,) int64 in [0, 2p]: first column of the crop."""
    mirrored: Tensor
    """(n,) bool."""

    def select(self, index: Tensor) -> Draws:
        """The draws of some of the images, in the order of ``index``."""
        return Draws(self.top[index], self.left[index], self.mirrored[index])


def draw(augment: Augmentation, count: int, seed: int, epoch: int) -> Draws:
    """Draw for ``count`` images: a function of (seed, epoch, image), not of the batch size, the
    device, or what was drawn in earlier epochs."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", epoch))
    shifts = torch.randint(0, 2 * augment.crop_padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    if not augment.flip:
        mirrored = torch.zeros(count, dtype=torch.bool)
    return Draws(shifts[0], shifts[1], mirrored)


def apply(augment: Augmentation, x: Tensor, draws: Draws) -> Tensor:
    """(n, c, h, w) -> (n, c, h, w): each image padded with zeros, cropped and perhaps mirrored.

    Zero is the per-channel mean where images are normalised.
    """
    if augment.crop_padding:
        height, width = x.shape[2:]
        padded = F.pad(x, [augment.crop_padding] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        image = torch.arange(len(x), device=x.device)
        x = windows[image, :, draws.top.to(x.device), draws.left.to(x.device)]
    if augment.flip:
        x = torch.where(draws.mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
    return x
