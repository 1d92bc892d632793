"""Masks from ranks: which coordinates of each image are kept, and what the others become.

A data set with room for a masked copy in memory is masked once per training; a larger one batch by
batch, with the same result. Neither is ever written.

Shapes: n images, b of them in a batch, c channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradattr.errors import DataError

_MOST_BINS = 256

#: Images masked at a time, so that little else than the copy is in memory.
_CHUNK = 1024


@dataclass(frozen=True)
class Masking:
    """How the images of one data set are masked."""

    bins: Tensor
    """(n, c, h, w) uint8, or (n, 1, h, w) where pixels are masked: the level bin of every
    coordinate of every image, in the order of the images."""
    keep: tuple[int, int]
    """The bins [low, high) whose coordinates are kept."""
    fill: Sequence[float] = (0.0,)
    """What a removed coordinate becomes, in the units of the model's input: one number, or one for
    each channel."""
    mask_only: bool = False
    """The control: instead of the image, 1 where it is kept and 0 elsewhere."""

    def apply(self, x: Tensor, bins: Tensor) -> Tensor:
        """Images (b, c, h, w) and their bins (b, c or 1, h, w) -> masked images (b, c, h, w)."""
        kept = self._kept(bins)
        if self.mask_only:
            return kept.to(x.dtype).expand(x.shape).contiguous()
        # Adding 0 makes -0 a plain 0.
        fill = torch.tensor([float(value) + 0.0 for value in self.fill], dtype=x.dtype)
        return torch.where(kept, x, fill.to(x.device)[:, None, None])

    def masked_copy(self, x: Tensor) -> Tensor:
        """The whole data set (n, c, h, w), masked."""
        copy = torch.empty_like(x)
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            copy[rows] = self.apply(x[rows], self.bins[rows].to(x.device))
        return copy

    def _kept(self, bins: Tensor) -> Tensor:
        """bool, of the shape of ``bins``."""
        low, high = self.keep
        width = high - low
        if width <= 0 or width >= _MOST_BINS:
            return torch.full_like(bins, width > 0, dtype=torch.bool)
        # Bytes wrap around, so all below 'low' come last: one comparison in place of two.
        return bins - low < width

    def to(self, device: torch.device) -> Masking:
        """The same with the bins on ``device``."""
        return replace(self, bins=self.bins.to(device))

    def identity(self) -> dict[str, Any]:
        """What a training on these masks must agree on to be continued."""
        return {"keep": list(self.keep), "fill": list(self.fill), "mask_only": self.mask_only}

    def check(self, x: Tensor, which: str) -> None:
        """Raise DataError unless this masks images x (n, c, h, w)."""
        n, channels = x.shape[:2]
        shapes = [(n, channels, *x.shape[2:]), (n, 1, *x.shape[2:])]
        if tuple(self.bins.shape) not in shapes or self.bins.dtype != torch.uint8:
            raise DataError(
                f"{which} masks: bins {tuple(self.bins.shape)} of {self.bins.dtype} were given for "
                f"images {tuple(x.shape)}, expected uint8 {shapes[0]} or {shapes[1]}"
            )
        low, high = self.keep
        if not 0 <= low <= high <= _MOST_BINS:
            raise DataError(
                f"{which} masks: bins from {low} to before {high} are to be kept, "
                f"expected 0 <= low <= high <= {_MOST_BINS}"
            )
        if len(self.fill) not in (1, channels):
            raise DataError(
                f"{which} masks: {len(self.fill)} fill values were given for {channels} channels, "
                "expected one, or one for each"
            )
