"""DeepLIFT by the rescale rule, and DeepSHAP, its mean over baselines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.attribution.baselines import Sample
from gradattr.attribution.block import Block
from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.layers.rectifiers import compiled_module
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.propagation.interception import Unfit
from gradattr.attribution.propagation.rescale_rule import Multipliers, multipliers
from gradattr.attribution.sampling import start_evaluations
from gradattr.attribution.target import Objective, logit
from gradattr.errors import MethodError


class _Rescaled(Procedure):
    """What DeepLIFT and DeepSHAP have in common."""

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        compiled = compiled_module(network)
        if compiled is not None:
            return f"{compiled} is compiled, its operations are out of reach"
        one = x[:1]
        index = torch.zeros(1, dtype=torch.long, device=x.device)
        try:
            multipliers(PlainEvaluator(network), one, 0.5 * one, index, logit)
        except (Unfit, ValueError) as reason:  # ValueError: not differentiable at all
            return str(reason)
        return None

    def _multipliers(
        self, block: Block, x: Tensor, start: Tensor, index: Tensor, objective: Objective
    ) -> Multipliers:
        try:
            return multipliers(block.evaluator, x, start, index, objective)
        except Unfit as unfit:
            # As the model names its parts, not a copy of it that runs faster.
            reason = self.obstacle(block.evaluator.network, x)
            raise MethodError(reason or str(unfit)) from None


@dataclass(frozen=True)
class DeepLift(_Rescaled):
    """(x - x') times the multipliers of the scalar from x' to x (Shrikumar et al. 2017, rescale).

    Sums, products with constants, convolutions, batch norm in eval mode and averages are linear.
    Activation functions have their secant; where x and x' agree, their derivative. The
    product of two values that depend on the input (squeeze and excitation) is split up equally, as
    its Shapley value is; the paper has no rule for it, SHAP's code has this one. Max-pooling: see
    ``PathMaximum``. A probability or a loss is a logarithm, a sum and exponentials: see
    ``LogSoftmax``. All of these add up exactly, for every target. What has no rule is refused.
    """

    baseline: Start

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        # A baseline that is the same for all images is run once for a block of them.
        return (1 if self.baseline.same_for_all else 2) + start_evaluations(self.baseline)

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        if isinstance(self.baseline, Sample):
            start = self.baseline.draw_other(block.x, block.seeds, block.normalization)
        else:
            start = block.draw(self.baseline, 0)
        rows = start[:1] if self.baseline.same_for_all else start
        found = self._multipliers(block, block.x, rows, index, objective)
        maps = (block.x - start) * found.maps
        return Made(maps, found.baseline_score, degenerate=(maps == 0).flatten(1).all(1))


@dataclass(frozen=True)
class DeepShap(_Rescaled):
    """The mean of DeepLIFT's maps over ``samples`` draws of the baseline (Lundberg, Lee 2017)."""

    baseline: Start
    samples: int = 25

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples: {self.samples} given, at least 1 expected")
        if not self.baseline.varies:
            raise ValueError(
                f"baseline: {self.baseline!r} given, one that varies from draw to draw expected"
            )

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 2 * self.samples

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        at_once = max(1, block.batch_size // len(block.x))
        maps, score = torch.zeros_like(block.x), torch.zeros_like(block.x.flatten(1)[:, 0])
        for first in range(0, self.samples, at_once):
            count = min(at_once, self.samples - first)
            draws = [block.draw(self.baseline, copy) for copy in range(first, first + count)]
            start = torch.cat(draws)
            x = block.x.repeat(count, *[1] * (block.x.dim() - 1))
            found = self._multipliers(block, x, start, index.repeat(count), objective)
            for part in ((x - start) * found.maps).chunk(count):
                maps += part / self.samples
            for scores in found.baseline_score.chunk(count):
                score = score + scores / self.samples
        return Made(maps, score, degenerate=(maps == 0).flatten(1).all(1))
