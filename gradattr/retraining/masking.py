"""Masks on the fly: which coordinates of each image are kept, and what the others become.

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
#: The integers that are as wide as a floating-point number.
_BITS = {
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


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
        if self.mask_only:
            return self.kept(bins).to(x.dtype).expand_as(x)
        fill = torch.tensor(self.fill, dtype=x.dtype, device=x.device)[:, None, None]
        if x.device.type == "cpu" and x.dtype in _BITS:
            return self._by_bits(x, bins, fill)
        return torch.where(self.kept(bins) > 0, x, fill)

    def kept(self, bins: Tensor) -> Tensor:
        """uint8, as ``bins``: 1 where a coordinate is kept, 0 elsewhere."""
        low, high = self.keep
        if low >= high:
            return torch.zeros_like(bins)
        # Bytes wrap around, so all below 'low' come last; then 0 is what was 'width' or more.
        # Arithmetic on bytes is vectorised on a CPU, comparisons are not (10 times as slow).
        width = high - low
        if width >= _MOST_BINS:
            return torch.ones_like(bins)
        shifted = bins - low if low else bins
        return (shifted.clamp(max=width) - width).clamp_(max=1)

    def _by_bits(self, x: Tensor, bins: Tensor, fill: Tensor) -> Tensor:
        """``where(kept, x, fill)`` on the numbers' bits: the same, in a quarter of the time."""
        integer = _BITS[x.dtype]
        ones = self.kept(bins).view(torch.int8).neg_().to(integer)
        bits, fill = x.view(integer), fill.view(integer)
        if not bool(fill.any()):
            return bits.bitwise_and(ones).view(x.dtype)
        return bits.bitwise_xor(fill).bitwise_and_(ones).bitwise_xor_(fill).view(x.dtype)

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
