"""Class activation maps: channels of a late layer, weighted by what the score makes of them.

A_k(i) is channel k of the layer at location i, g_k(i) the gradient of the scalar S there. Maps are
(n, 1, H, W), upsampled bilinearly to the image; a class token has no part in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.layers.layer_capture import capture
from gradattr.attribution.layers.layer_procedure import LayerProcedure
from gradattr.attribution.layers.rectified_gradients import RectifiedGradient
from gradattr.attribution.layers.spatial_layers import SeenLayer, located, upsampled
from gradattr.attribution.procedure import Made
from gradattr.attribution.target import Objective

Weighting = Literal["mean", "plus_plus"]


@dataclass(frozen=True)
class GradCam(LayerProcedure):
    """max(0, sum_k w_k A_k), with one weight per channel.

    'mean', Grad-CAM (Selvaraju et al. 2017): w_k = mean_i g_k(i).

    'plus_plus', Grad-CAM++ (Chattopadhay et al. 2018, eqs. 10 and 19, for Y = exp(S) and a network
    that is piecewise linear): w_k = sum_i a_k(i) max(0, dY/dA_k(i)), dY/dA = exp(S) g, and

        a_k(i) = g_k(i)^2 / (2 g_k(i)^2 + sum_j A_k(j) g_k(i)^3) = 1 / (2 + g_k(i) sum_j A_k(j))

    where g_k(i) is not 0; 0 at a pole. The factor exp(S) > 0, the same for the whole map of an
    image, is left out: it overflows, and tells nothing apart.
    """

    weighting: Weighting = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        if self.weighting not in ("mean", "plus_plus"):
            raise ValueError(f"weighting: {self.weighting!r} given, 'mean' or 'plus_plus' expected")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 1

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        maps = self.maps(block, index, objective)
        return Made(maps, degenerate=nowhere(maps))

    def maps(self, block: Block, index: Tensor, objective: Objective) -> Tensor:
        """(n, 1, H, W)."""
        values, slopes = activation_and_slope(block, self.seen(block), index, objective)
        weights = slopes.mean((2, 3)) if self.weighting == "mean" else _plus_plus(values, slopes)
        maps = (weights[:, :, None, None] * values).sum(1, keepdim=True).relu()
        return upsampled(maps, block.x.shape[-2:])


@dataclass(frozen=True)
class GuidedGradCam(LayerProcedure):
    """Guided backprop (n, c, H, W) times Grad-CAM, elementwise (Selvaraju et al. 2017)."""

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 2

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        coarse = GradCam(self.layer).maps(block, index, objective)
        maps = RectifiedGradient("guided").maps(block, index, objective) * coarse
        return Made(maps, degenerate=nowhere(maps))

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        return super().obstacle(network, x) or RectifiedGradient("guided").obstacle(network, x)


def activation_and_slope(
    block: Block, seen: SeenLayer, index: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """A and g of a layer for the samples of a block, both (n, k, h, w)."""
    with torch.enable_grad():
        activation, logits = capture(block.evaluator.network, seen.name, block.x)
        score = objective(logits, index).sum()
        (slopes,) = torch.autograd.grad(score, activation)
    values = located(activation.detach(), seen.channels_last)
    return values, located(slopes, seen.channels_last)


def nowhere(maps: Tensor) -> Tensor:
    """(n,) whether a map is zero everywhere."""
    return (maps == 0).flatten(1).all(1)


def _plus_plus(values: Tensor, slopes: Tensor) -> Tensor:
    """w_k (n, k) of Grad-CAM++; only locations with g > 0 have a part in it."""
    bottom = 2 + slopes * values.sum((2, 3), keepdim=True)
    alpha = torch.where(bottom == 0, torch.zeros_like(bottom), 1 / bottom)
    return (alpha * slopes.relu()).sum((2, 3))
