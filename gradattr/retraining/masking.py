"""Masks on the fly: which coordinates of each image are kept, and what the others become.

Shapes: n images, b of them in a batch, c channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
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


@lru_cache(maxsize=8)
def _fill(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, bool]:
    """(c or 1, 1, 1), and whether every bit of it is 0. Kept, because making it takes as long as
    masking a batch."""
    fill = torch.tensor(values, dtype=dtype)[:, None, None]
    zero = not bool(fill.contiguous().view(torch.uint8).any())
    return fill.to(device), zero


class Scratch:
    """Memory that serves batch after batch. Fresh memory for every batch costs more than the
    arithmetic that is done in it."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def like(
        self, name: str, source: Tensor, dtype: torch.dtype, rows: int | None = None
    ) -> Tensor:
        """Uninitialised memory for ``rows`` rows of ``source`` (all); overwritten by the next call
        with the same name."""
        shape = (len(source) if rows is None else rows, *source.shape[1:])
        held = self._kept.get(name)
        fits = (
            held is not None
            and (held.dtype, held.device, held.shape[1:])
            == (dtype, source.device, source.shape[1:])
            and len(held) >= shape[0]
        )
        if held is None or not fits:
            held = self._kept[name] = torch.empty(shape, dtype=dtype, device=source.device)
        return held[: shape[0]]

    def rows(self, name: str, source: Tensor, index: Tensor) -> Tensor:
        """Rows of ``source``, a copy."""
        out = self.like(name, source, source.dtype, len(index))
        return torch.index_select(source, 0, index, out=out)

    def copy(self, name: str, source: Tensor) -> Tensor:
        """A contiguous copy of ``source``."""
        return self.like(name, source, source.dtype).copy_(source)


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

    resolved: bool = False
    """``bins`` are no bins any more but 255 where a coordinate is kept, and 0 elsewhere."""

    def resolve(self) -> Masking:
        """The same with the bins looked at once, not in every batch: as many bytes, a copy."""
        if self.resolved:
            return self
        return replace(self, bins=self._kept_(self.bins.clone()), resolved=True)

    def apply(self, x: Tensor, bins: Tensor) -> Tensor:
        """Images (b, c, h, w) and their bins (b, c or 1, h, w) -> masked images (b, c, h, w)."""
        return self.apply_(x.clone(), bins.clone())

    def apply_(self, x: Tensor, bins: Tensor) -> Tensor:
        """The same in the memory of ``x``; ``bins`` are overwritten."""
        kept = bins if self.resolved else self._kept_(bins)
        if self.mask_only:
            return x.copy_(kept.clamp_(max=1).expand_as(x))
        # Adding 0 makes -0 a plain 0.
        fill, zero = _fill(tuple(float(v) + 0.0 for v in self.fill), x.dtype, x.device)
        if x.device.type != "cpu" or x.dtype not in _BITS:
            return torch.where(kept > 0, x, fill, out=x)
        # On the numbers' bits, because 'where' is not vectorised: the same in a fifth of the time.
        bits, fill = x.view(_BITS[x.dtype]), fill.view(_BITS[x.dtype])
        if not zero:
            bits.bitwise_xor_(fill)
        # NumPy widens the bytes piece by piece in the processor's cache, torch all of them first.
        numbers = bits.numpy()
        np.bitwise_and(numbers, kept.view(torch.int8).numpy(), out=numbers)
        if not zero:
            bits.bitwise_xor_(fill)
        return x

    def _kept_(self, bins: Tensor) -> Tensor:
        """uint8 in the memory of ``bins``: 255 where a coordinate is kept, 0 elsewhere."""
        low, high = self.keep
        width = high - low
        if width <= 0 or width >= _MOST_BINS:
            return bins.fill_(255 if width > 0 else 0)
        # Bytes wrap around, so all below 'low' come last; then 0 is what was 'width' or more.
        # Arithmetic on bytes is vectorised on a CPU, comparisons are not.
        if low:
            bins.sub_(low)
        return bins.clamp_(max=width).sub_(width).clamp_(max=1).neg_()

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
