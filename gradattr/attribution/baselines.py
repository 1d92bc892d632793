"""Baselines x': what "the feature is absent" means for path methods.

A baseline is a small frozen value that can be compared, so that methods with equal baselines share
their passes. ``draw`` makes it for a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gradattr.attribution.noise import choices, standard_normal, standard_uniform

Channels = tuple[float, ...]

B = TypeVar("B")


@dataclass(frozen=True)
class Normalization:
    """What black, white and the mean are in the space of the model's input.

    One number per channel (dimension 1 of the input), or a single one for all. The default is the
    space of pixels in [0, 1] with nothing subtracted.
    """

    black: Channels = (0.0,)
    white: Channels = (1.0,)
    mean: Channels = (0.0,)

    @classmethod
    def from_mean_std(cls, mean: Sequence[float], std: Sequence[float]) -> Normalization:
        """For inputs (pixel - mean) / std, pixels in [0, 1]: the mean is then 0."""
        return cls(
            black=tuple(-m / s for m, s in zip(mean, std, strict=True)),
            white=tuple((1 - m) / s for m, s in zip(mean, std, strict=True)),
            mean=(0.0,) * len(mean),
        )


class Baseline(Protocol):
    """Makes x' for a batch x (n, ...); the result has the shape, dtype and device of x."""

    @property
    def same_for_all(self) -> bool:
        """Whether every sample has the same x'."""

    @property
    def varies(self) -> bool:
        """Whether each copy of a sample is another draw."""

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        """Draw number ``copy`` for each of the n samples, whose seeds are ``seeds``."""


class _Flat(ABC):
    """The same number everywhere in a channel."""

    same_for_all = True
    varies = False

    @abstractmethod
    def values(self, normalization: Normalization) -> Channels:
        """One number, or one per channel."""

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        return per_channel(self.values(normalization), x).expand_as(x)


@dataclass(frozen=True)
class Black(_Flat):
    """Every pixel 0 before normalisation."""

    def values(self, normalization: Normalization) -> Channels:
        return normalization.black


@dataclass(frozen=True)
class Mean(_Flat):
    """The per-channel mean that pre-processing subtracts."""

    def values(self, normalization: Normalization) -> Channels:
        return normalization.mean


@dataclass(frozen=True)
class Constant(_Flat):
    """A given number, or one per channel, in the space of the model's input."""

    value: float | Channels = 0.0

    def values(self, normalization: Normalization) -> Channels:
        return self.value if isinstance(self.value, tuple) else (self.value,)


@dataclass(frozen=True)
class Blur:
    """The image itself under a Gaussian blur of ``kernel`` x ``kernel`` pixels.

    Borders are reflected as torchvision's gaussian_blur does; a kernel larger than the image keeps
    being reflected. The input is (n, ..., H, W).
    """

    kernel: int = 11
    sigma: float = 5.0
    same_for_all = False
    varies = False

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0 or not self.sigma > 0:
            raise ValueError(
                f"blur: kernel {self.kernel}, sigma {self.sigma} given; "
                "an odd kernel and a sigma above 0 expected"
            )

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        if x.dim() < 3:
            raise ValueError(f"blur needs images (n, ..., H, W), not inputs of {tuple(x.shape)}")
        rows = _blur_matrix(x.shape[-2], self.kernel, self.sigma).to(x)
        columns = _blur_matrix(x.shape[-1], self.kernel, self.sigma).to(x)
        return rows @ x @ columns.T


@dataclass(frozen=True)
class Noise:
    """The image plus Gaussian noise of ``sigma`` times the image's range (max - min)."""

    sigma: float = 0.2
    same_for_all = False
    varies = True

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        return x + self.sigma * value_range(x) * standard_normal(x, seeds, "baseline", copy)


@dataclass(frozen=True)
class Uniform:
    """Independent uniform pixels between black and white."""

    same_for_all = False
    varies = True

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        share = standard_uniform(x, seeds, "baseline", copy)
        return torch.lerp(
            per_channel(normalization.black, x), per_channel(normalization.white, x), share
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """Inputs drawn from a pool (p, ...), p >= 1. Equal only to itself: keep one per pool."""

    pool: Tensor = field(repr=False)
    same_for_all = False
    varies = True

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        if len(self.pool) == 0 or self.pool.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"baseline pool of shape {tuple(self.pool.shape)}: "
                f"expected (p, {', '.join(map(str, x.shape[1:]))}) with p >= 1"
            )
        return self._rows(choices(seeds, "baseline", len(self.pool), copy), x)

    def draw_other(self, x: Tensor, seeds: Sequence[int], normalization: Normalization) -> Tensor:
        """The first draw, but the pool's next input for an input that draws itself: as the only
        baseline it would make a map of zeros. In an expectation over the pool it has its place."""
        drawn = self.draw(x, seeds, 0, normalization)
        itself = (drawn == x).flatten(1).all(1).tolist()
        places = choices(seeds, "baseline", len(self.pool), 0)
        moved = [(p + own) % len(self.pool) for p, own in zip(places, itself, strict=True)]
        return self._rows(moved, x) if any(itself) else drawn

    def _rows(self, places: Sequence[int], x: Tensor) -> Tensor:
        return self.pool[torch.tensor(places, device=self.pool.device)].to(x)


def as_baseline(value: B | Tensor | float) -> B | Constant | Sample:
    """A baseline as it is, a number as ``Constant``, a tensor (p, ...) as ``Sample`` of it."""
    if isinstance(value, Tensor):
        return Sample(value)
    return Constant(float(value)) if isinstance(value, int | float) else value


def per_channel(values: Channels, x: Tensor) -> Tensor:
    """``values`` as a tensor that broadcasts along dimension 1 of ``x``."""
    if len(values) not in (1, x.shape[1]):
        raise ValueError(f"{len(values)} channel values for inputs of {x.shape[1]} channels")
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(1, -1, *[1] * (x.dim() - 2))


def value_range(x: Tensor) -> Tensor:
    """max - min of each sample, shaped (n, 1, ...)."""
    flat = x.flatten(1)
    return (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (x.dim() - 1))


@lru_cache(maxsize=16)
def _blur_matrix(size: int, kernel: int, sigma: float) -> Tensor:
    """(size, size) float64: row i holds the weights of pixel i's neighbours, borders reflected."""
    half = kernel // 2
    tap = [math.exp(-0.5 * (d / sigma) ** 2) for d in range(-half, half + 1)]
    period = max(2 * (size - 1), 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for d, weight in zip(range(-half, half + 1), tap, strict=True):
            j = (i + d) % period
            matrix[i, min(j, period - j)] += weight / sum(tap)
    return matrix
