"""Linear models of the answers to images of which some segments are taken away: LIME, KernelSHAP.

Both ask for the score behind binary masks z over the m segments of an image (z_j = 1: segment j is
there, else the baseline's pixels are), and fit a linear model in closed form, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.perturbation.coalitions import (
    coalitions,
    coalitions_evaluated,
    random_masks,
)
from gradattr.attribution.perturbation.linear_fits import shapley_regression, weighted_ridge
from gradattr.attribution.perturbation.masked_inputs import (
    absent,
    all_scores,
    answered,
    no_image,
    refuse_obstacles,
)
from gradattr.attribution.perturbation.segments import (
    NEEDS_SUPERPIXELS,
    SegmentsName,
    find_segments,
    grid_shape,
    has_superpixels,
)
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.sampling import start_evaluations
from gradattr.attribution.target import Objective


@dataclass(frozen=True)
class _Surrogate(Procedure):
    """What LIME and KernelSHAP have in common."""

    baseline: Start
    samples: int = 1000
    segments: SegmentsName = "grid"
    """'grid': cells; 'slic': superpixels."""
    count: int = 49
    """Segments, about."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples: {self.samples} given, at least 2 expected")
        if self.segments not in ("grid", "slic"):
            raise ValueError(f"segments: '{self.segments}' given, 'grid' or 'slic' expected")
        if self.count < 2:
            raise ValueError(f"count: {self.count} given, at least 2 expected")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return self.samples + start_evaluations(self.baseline)

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        if self.segments == "slic" and not has_superpixels():
            return NEEDS_SUPERPIXELS
        return no_image(x)

    def parts(self, block: Block) -> list[Tensor]:
        """Of each image: segment of every pixel, (h, w) int64 on the CPU."""
        refuse_obstacles(self, block)
        return find_segments(self.segments, block.x, self.count, block.normalization)


@dataclass(frozen=True)
class Lime(_Surrogate):
    """The map's value at a pixel is the coefficient of its segment in a weighted ridge regression
    of the scores on the masks (Ribeiro et al. 2016).

    ``samples`` masks: the first is the whole image, in the others each segment is there with
    probability 1/2. Weights: sqrt(exp(-d² / kernel_width²)), d = 1 - sqrt(s / m) the cosine
    distance of a mask with s of m segments from the whole image. Regression: as scikit-learn's
    Ridge(alpha=ridge, fit_intercept=True), all segments as features. As lime's image explainer
    does it, but for the segments and the baseline. One channel.
    """

    kernel_width: float = 0.25
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kernel_width > 0:
            raise ValueError(f"kernel_width: {self.kernel_width} given, above 0 expected")
        if not self.ridge >= 0:
            raise ValueError(f"ridge: {self.ridge} given, at least 0 expected")

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        segments, filler = self.parts(block), absent(block, self.baseline)
        masks = [
            random_masks(seed, self.samples, int(parts.max()) + 1)
            for seed, parts in zip(block.seeds, segments, strict=True)
        ]
        found = segment_scores(block, index, objective, segments, masks, filler)
        values = [
            weighted_ridge(z, scores, self.closeness(z), self.ridge)
            for z, scores in zip(masks, found, strict=True)
        ]
        return Made(_painted(segments, values, block.x))

    def closeness(self, masks: Tensor) -> Tensor:
        """(k,) float64: weights of masks (k, m)."""
        distance = 1 - masks.double().mean(1).sqrt()
        return (-((distance / self.kernel_width) ** 2) / 2).exp()


@dataclass(frozen=True)
class KernelShap(_Surrogate):
    """Shapley values of the segments, each spread evenly over its segment's pixels, so that the
    map adds up to f(x) - f(x') exactly (Lundberg & Lee 2017).

    The values solve the least-squares problem weighted with the Shapley kernel, under the
    constraint that they add up. Where ``samples`` suffice for all 2^m - 2 coalitions of m
    segments, all are evaluated and the values are the Shapley values; else see ``coalitions``:
    estimates that get better with more samples. One channel.
    """

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        own = self.samples // 2 * 2
        if self.segments == "grid":
            rows, columns = grid_shape(shape[-2], shape[-1], self.count)
            own = coalitions_evaluated(self.samples, rows * columns)
        return own + start_evaluations(self.baseline)

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        segments, origin = self.parts(block), block.origin(self.baseline)
        start = objective(origin.logits, index)
        total = (objective(block.own_logits, index) - start).double().cpu()
        drawn = [
            coalitions(seed, self.samples, int(parts.max()) + 1)
            for seed, parts in zip(block.seeds, segments, strict=True)
        ]
        masks = [z for z, _ in drawn]
        found = segment_scores(block, index, objective, segments, masks, origin.x)
        values = [
            shapley_regression(z, scores - lowest, weights, height)
            for (z, weights), scores, lowest, height in zip(
                drawn, found, start.double().cpu(), total, strict=True
            )
        ]
        spread = [
            value / parts.flatten().bincount()
            for value, parts in zip(values, segments, strict=True)
        ]
        return Made(_painted(segments, spread, block.x), start)


def segment_scores(
    block: Block,
    index: Tensor,
    objective: Objective,
    segments: Sequence[Tensor],
    masks: Sequence[Tensor],
    filler: Tensor,
) -> list[Tensor]:
    """Of each image: (k,) float64 on the CPU, the scores behind its masks (k, m)."""
    device, longest = block.x.device, max(len(z) for z in masks)
    widest = max(z.shape[1] for z in masks)
    table = torch.ones(longest, len(masks), widest, dtype=torch.bool)
    for image, z in enumerate(masks):
        table[: len(z), image, : z.shape[1]] = z
    table = table.to(device)
    place = torch.stack([s.flatten() for s in segments]).to(device)

    def compose(numbers: range) -> Tensor:
        part = table[numbers.start : numbers.stop]
        present = part.gather(2, place.expand(len(numbers), -1, -1))
        shape = (*present.shape[:2], 1, *block.x.shape[-2:])
        return torch.where(present.view(shape), block.x, filler)

    scores = all_scores(block, index, objective, longest, answered(block, compose))
    return [row[: len(z)] for row, z in zip(scores.double().cpu(), masks, strict=True)]


def _painted(segments: Sequence[Tensor], values: Sequence[Tensor], x: Tensor) -> Tensor:
    """(n, 1, h, w) every pixel in its segment's value."""
    maps = [value[parts] for parts, value in zip(segments, values, strict=True)]
    return torch.stack(maps)[:, None].to(x)
