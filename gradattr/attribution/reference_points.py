"""What the contributions of a map are against: the point x' at which they would all be 0.

A contribution says what a value of x adds to the score, as against that of x'. Methods that are
defined with a baseline have it as x'; the others are against 0, as input x gradient is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.block import Block, Shared
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.paths.blur_path import BlurPath
from gradattr.attribution.propagation.deep_lift_maps import DeepShap
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.sampling import RandomPaths


def reference_points(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    normalization: Normalization | None = None,
    batch_size: int = 64,
) -> list[Tensor]:
    """x' (n, ...) of samples x (n, ...), one tensor per request.

    The baseline of a method that has one, as it was drawn or searched for; the mean of the draws of
    a method that is an expectation over them; BlurIG's most blurred image; else 0. Of maps that are
    averaged over noisy copies, that of x itself.
    """
    shared, parts = Shared(), []
    for rows in (slice(first, first + batch_size) for first in range(0, len(x), batch_size)):
        points, own = x[rows].detach(), list(seeds[rows])
        block = Block(evaluator, points, own, normalization or Normalization(), batch_size, shared)
        parts.append([_reference(block, request) for request in requests])
    return [torch.cat(found) for found in zip(*parts, strict=True)]


def _reference(block: Block, request: MethodRequest) -> Tensor:
    source = request.source
    if isinstance(source, BlurPath):
        return source.start(block.x)
    baseline = getattr(source, "baseline", None)
    if baseline is None:
        return torch.zeros_like(block.x)
    if isinstance(source, RandomPaths | DeepShap) and baseline.varies:
        total = torch.zeros_like(block.x, dtype=torch.float64)
        for copy in range(source.samples):
            total += block.draw(baseline, copy)
        return (total / source.samples).to(block.x)
    return block.start(baseline)
