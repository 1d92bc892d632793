r"""Infidelity: how badly a map predicts what a perturbation does to the score (Yeh et al. 2019).

With random perturbations I, the map A and the score f of the class explained,

.. math::
    \mathrm{infidelity} = E_I \left( I^T A - (f(x) - f(x - I)) \right)^2
    \qquad
    \min_\beta \; E_I \left( \beta I^T A - (f(x) - f(x - I)) \right)^2

The first depends on the scale of the map; the second, with
:math:`\beta = E[I^T A \, \Delta f] / E[(I^T A)^2]`, does not, and compares methods of different
scales. The gradient of a linear model has infidelity 0. A map of one value per pixel says the same
of every channel.

:math:`I^T A` takes A for slopes: score per unit of the input. Maps that are multiplied by x - x'
(input x gradient, integrated gradients, occlusion) are contributions instead: there I is divided by
x - x' first, as Captum does with ``multiply_by_inputs``; every map by its own. With a square of x'
as I that is the sum of the map over the square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gradattr.attribution.baselines import Baseline, Black, Normalization, per_channel
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.noise import choices, standard_normal
from gradattr.errors import UsageError
from gradattr.metrics.masked_forwards import Questions, Score
from gradattr.metrics.repeated_maps import check_images, copies_of, pieces, rows_of


class Perturbation(Protocol):
    """What is subtracted from an image."""

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        """I of draw number ``copy``, shaped like x (n, c, h, w)."""


@dataclass(frozen=True)
class GaussianPerturbation:
    """I ~ N(0, sigma^2) for every value, sigma in pixels of 0 to 1. UsageError unless above 0."""

    sigma: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UsageError(f"gaussian perturbation: sigma {self.sigma}, expected more than 0")

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        unit = per_channel(normalization.white, x) - per_channel(normalization.black, x)
        return self.sigma * unit * standard_normal(x, seeds, "infidelity", copy)


@dataclass(frozen=True)
class SquarePatch:
    """I = x - x' inside a square at a random place and 0 outside: the square becomes the baseline.

    ``size``: side in pixels, by default a quarter of the image's shorter side; ``baseline``: x',
    by default black. Every place inside the image is equally likely. UsageError where the square
    is larger than the image.
    """

    size: int | None = None
    baseline: Baseline = field(default_factory=Black)

    def draw(
        self, x: Tensor, seeds: Sequence[int], copy: int, normalization: Normalization
    ) -> Tensor:
        height, width = x.shape[2:]
        size = max(1, min(height, width) // 4) if self.size is None else self.size
        if not 1 <= size <= min(height, width):
            raise UsageError(f"square of {size} pixels in images of {height} x {width}")
        marks = [
            self._span(seeds, name, copy, side, size, x.device)
            for name, side in (("infidelity row", height), ("infidelity column", width))
        ]
        inside = marks[0][:, None, :, None] & marks[1][:, None, None, :]
        difference = x - self.baseline.draw(x, seeds, copy, normalization)
        return torch.where(inside, difference, 0)

    def _span(
        self,
        seeds: Sequence[int],
        purpose: str,
        copy: int,
        side: int,
        size: int,
        device: torch.device,
    ) -> Tensor:
        """(n, side) True along the square."""
        first = torch.tensor(choices(seeds, purpose, side - size + 1, copy), device=device)
        place = torch.arange(side, device=device)
        return (place >= first[:, None]) & (place < first[:, None] + size)


class Infidelity(NamedTuple):
    """Of one method, per image (n,), float64 on the CPU; lower is better. NaN where the map or a
    score is not finite."""

    infidelity: Tensor
    """0 or more, in squared units of the score."""
    scaled: Tensor
    """0 or more: the same with the best scale; at most E (f(x) - f(x - I))^2, which a map that
    predicts nothing has."""
    scale: Tensor
    """The best scale beta; NaN, like ``scaled``, where I^T A is 0 for every draw."""


def infidelity(
    evaluator: Evaluator,
    x: Tensor,
    maps: Sequence[Tensor],
    index: Tensor,
    *,
    seeds: Sequence[int],
    perturbation: Perturbation | None = None,
    samples: int = 100,
    score: Score = "prob",
    references: Sequence[Tensor | None] | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
    unchanged: Tensor | None = None,
) -> list[Infidelity]:
    """Infidelity of maps, (n, c, h, w) or (n, 1, h, w) each, of the classes ``index`` (n,) at x
    (n, c, h, w): one result per map, all from the same evaluations of the model.

    ``perturbation``: Gaussian by default. ``samples``: draws of I per image. ``score``: f is the
    softmax probability or the logit of the class; a map says most of the scalar that it explains.
    ``references``: for every map of contributions the point x' (n, c, h, w) that they are against;
    where x = x', such a map counts nothing; None for a map of slopes, as by default all are.
    ``unchanged`` (n,): scores of x where they are known (``image_scores``). Raises UsageError for
    arguments that do not fit.
    """
    check_images(x, seeds, maps)
    references = [None] * len(maps) if references is None else list(references)
    _check(x, maps, index, samples, score, references)
    perturbation = perturbation or GaussianPerturbation()
    normalization = normalization or Normalization()
    x, seeds, index = x.detach(), list(seeds), index.to(x.device)
    questions = Questions(evaluator, index, score, batch_size)
    at_x = questions.of_unchanged(x, unchanged)
    displacements = [None if point is None else x - point.detach() for point in references]
    drops = torch.zeros(len(x), samples, dtype=torch.float64)
    products = torch.zeros(len(maps), len(x), samples, dtype=torch.float64)
    for batch in pieces(len(x), samples, batch_size):
        rows = rows_of(batch, x.device)
        parts = [perturbation.draw(x[r], seeds[r], copy, normalization) for copy, r in batch]
        removed = torch.cat(parts)
        where = (rows.cpu(), copies_of(batch))
        there = questions.of_changed([(x[rows] - removed, rows.cpu())]).scores
        drops[where] = at_x[rows.cpu()] - there
        for number, (one, displacement) in enumerate(zip(maps, displacements, strict=True)):
            moved = removed if displacement is None else _shares(removed, displacement[rows])
            product = moved.double() * one.detach()[rows].double()
            products[number][where] = product.flatten(1).sum(1).cpu()
    return [_errors(product, drops) for product in products]


def _shares(removed: Tensor, displacement: Tensor) -> Tensor:
    """How much of the way to x' every value is moved; 0 where x = x'."""
    return (removed / displacement).masked_fill(displacement == 0, 0)


def _errors(products: Tensor, drops: Tensor) -> Infidelity:
    """From I^T A and f(x) - f(x - I), (n, samples) each."""
    known = torch.isfinite(products).all(1) & torch.isfinite(drops).all(1)
    products = products.masked_fill(~known[:, None], torch.nan)
    square = (products**2).mean(1)
    scale = (products * drops).mean(1) / square
    scale = scale.masked_fill(square == 0, torch.nan)
    scaled = ((scale[:, None] * products - drops) ** 2).mean(1)
    return Infidelity(((products - drops) ** 2).mean(1), scaled, scale)


def _check(
    x: Tensor,
    maps: Sequence[Tensor],
    index: Tensor,
    samples: int,
    score: str,
    references: Sequence[Tensor | None],
) -> None:
    shapes = [None if point is None else tuple(point.shape) for point in references]
    if len(references) != len(maps) or any(s not in (None, tuple(x.shape)) for s in shapes):
        raise UsageError(
            f"references: {shapes} given for {len(maps)} maps of images {tuple(x.shape)}; expected "
            "for each a point of that shape, or None"
        )
    if index.shape != x.shape[:1]:
        raise UsageError(f"classes of shape {tuple(index.shape)} for {len(x)} images")
    for one in maps:
        if one.shape not in (x.shape, (len(x), 1, *x.shape[2:])):
            raise UsageError(
                f"a map of shape {tuple(one.shape)} for images {tuple(x.shape)}; expected the same "
                "shape, or one channel"
            )
    if samples < 1 or score not in ("prob", "logit"):
        raise UsageError(
            f"infidelity: {samples} samples, score '{score}'; expected 1 or more, and prob or logit"
        )
