"""Maps of a layer: its activation, its gradient times activation, and paths through it.

A is the layer's output, dS/dA the gradient of the scalar in it; products are summed over channels,
so a map has one value per location, (n, 1, H, W) when it is brought to the size of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from gradattr.attribution.baselines import Black
from gradattr.attribution.block import Block
from gradattr.attribution.layers.cam import activation_and_slope, nowhere
from gradattr.attribution.layers.layer_capture import activation_of, capture, with_activation
from gradattr.attribution.layers.layer_procedure import LayerProcedure
from gradattr.attribution.layers.spatial_layers import SeenLayer, located, spread, upsampled
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.procedure import Made
from gradattr.attribution.quadrature import RuleName, quadrature
from gradattr.attribution.sampling import start_evaluations
from gradattr.attribution.target import Objective

#: Places on a path that differ by less are one.
_CLOSE = 1e-9


@dataclass(frozen=True)
class LayerActivation(LayerProcedure):
    """mean_k A_k, upsampled: what the layer sees, whatever the target."""

    needs_gradient = False

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 1

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        seen = self.seen(block)
        values, _ = activation_of(block.evaluator.network, seen.name, block.x)
        coarse = located(values, seen.channels_last).mean(1, keepdim=True)
        maps = upsampled(coarse, block.x.shape[-2:])
        return Made(maps, degenerate=nowhere(maps))


@dataclass(frozen=True)
class LayerGradientTimesActivation(LayerProcedure):
    """sum_k A_k dS/dA_k, upsampled."""

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 1

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        values, slopes = activation_and_slope(block, self.seen(block), index, objective)
        maps = upsampled((values * slopes).sum(1, keepdim=True), block.x.shape[-2:])
        return Made(maps, degenerate=nowhere(maps))


@dataclass(frozen=True)
class _LayerPath(LayerProcedure):
    """A layer, and a path of so many steps from a baseline."""

    steps: int = 50
    rule: RuleName = "gauss_legendre"
    baseline: Start = field(default_factory=Black)

    def __post_init__(self) -> None:
        quadrature(self.rule, self.steps)


@dataclass(frozen=True)
class LayerIntegratedGradients(_LayerPath):
    """sum_k (A(x) - A(x'))_k sum_s w_s dS/dA_k, at the points A(x') + alpha_s (A(x) - A(x')).

    The network behind the layer sees those points in place of the layer's output; past the layer,
    in shortcuts around it, it sees x. (That is Captum's LayerIntegratedGradients.)

    Complete: over the locations the map adds up to S - S', S' with A(x') in the layer's place, and
    so do the pixels, to which a location's value is spread with its bilinear weights. Of a vision
    transformer the class token's share is in no pixel.
    """

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return self.steps + 3 + start_evaluations(self.baseline)

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        seen, network = self.seen(block), block.evaluator.network
        end, _ = activation_of(network, seen.name, block.x)
        start = _baseline_activation(block, self.baseline, seen)
        with torch.no_grad():
            score = objective(with_activation(network, seen.name, block.x, start), index)
        total = torch.zeros_like(end)
        rule = quadrature(self.rule, self.steps)
        for part in _parts(block, self.steps):
            points = torch.cat([torch.lerp(start, end, rule.alphas[step]) for step in part])
            count = len(part)
            with torch.enable_grad():
                leaf = points.requires_grad_(True)
                logits = with_activation(network, seen.name, _repeated(block.x, count), leaf)
                values = objective(logits, index.repeat(count))
                (slopes,) = torch.autograd.grad(values.sum(), leaf)
            for step, slope in zip(part, slopes.chunk(count), strict=True):
                total.add_(slope, alpha=rule.weights[step])
        coarse = located(total.mul_(end - start), seen.channels_last).sum(1, keepdim=True)
        maps = spread(coarse, block.x.shape[-2:])
        return Made(maps, score, degenerate=nowhere(maps))


@dataclass(frozen=True)
class LayerConductance(_LayerPath):
    """sum_k sum_s dS/dA_k(x_s) (A_k(z_s) - A_k(z_{s-1})) along the line from x' to x (Dhamdhere et
    al. 2018): what of the path's gradient flows through the layer.

    The rule's nodes are the x_s; z_0 = x', ..., z_n = x divide the line into pieces of the length
    of its weights, each with its node in it. By 'left' the gradient is that at the beginning of a
    piece: Captum's LayerConductance by 'riemann_trapezoid'.

    Complete in the limit of many steps, of layers without shortcuts around them: the map adds up
    to S(x) - S(x') over locations, and over pixels. The class token's share is in no pixel.
    """

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return len(set(self._places())) + start_evaluations(self.baseline)

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        seen, origin = self.seen(block), block.origin(self.baseline)
        low: Tensor | None = None
        slope: Tensor | None = None
        coarse: Tensor | None = None
        for number, (values, slopes) in enumerate(self._along(block, seen, index, objective)):
            if number % 2:
                slope = slopes
                continue
            if low is not None and slope is not None:
                piece = located(slope * (values - low), seen.channels_last).sum(1, keepdim=True)
                coarse = piece if coarse is None else coarse.add_(piece)
            low = values
        assert coarse is not None
        maps = spread(coarse, block.x.shape[-2:])
        return Made(maps, objective(origin.logits, index), degenerate=nowhere(maps))

    def _places(self) -> list[float]:
        """z_0, x_1, z_1, x_2, ..., z_n on the line from 0 to 1; those that are one are equal."""
        rule = quadrature(self.rule, self.steps)
        places, edge = [0.0], 0.0
        for step, (alpha, weight) in enumerate(zip(*rule, strict=True), start=1):
            edge = 1.0 if step == self.steps else edge + weight
            places += [alpha, edge]
        for before, after in pairwise(range(len(places))):
            if places[after] - places[before] < _CLOSE:
                places[after] = places[before]
        return places

    def _along(
        self, block: Block, seen: SeenLayer, index: Tensor, objective: Objective
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """A and, at nodes, dS/dA at each of the places, one after the other."""
        places = self._places()
        nodes = set(places[1::2])
        distinct = list(dict.fromkeys(places))
        known: dict[float, tuple[Tensor, Tensor | None]] = {}
        parts = iter(_parts(block, len(distinct)))
        for place in places:
            if place not in known:
                wanted = [distinct[number] for number in next(parts)]
                at_nodes = [one for one in wanted if one in nodes]
                others = [one for one in wanted if one not in nodes]
                known = self._evaluated(block, seen, at_nodes, index, objective)
                known |= self._evaluated(block, seen, others, index, None)
            yield known[place]

    def _evaluated(
        self,
        block: Block,
        seen: SeenLayer,
        places: list[float],
        index: Tensor,
        objective: Objective | None,
    ) -> dict[float, tuple[Tensor, Tensor | None]]:
        """A at places on the line, and dS/dA if there is an ``objective``."""
        if not places:
            return {}
        network, count = block.evaluator.network, len(places)
        start = block.origin(self.baseline).x
        points = torch.cat([torch.lerp(start, block.x, place) for place in places])
        if objective is None:
            plain, _ = activation_of(network, seen.name, points)
            return {p: (a, None) for p, a in zip(places, plain.chunk(count), strict=True)}
        with torch.enable_grad():
            values, logits = capture(network, seen.name, points)
            score = objective(logits, index.repeat(count)).sum()
            (slopes,) = torch.autograd.grad(score, values)
        both = zip(values.detach().chunk(count), slopes.chunk(count), strict=True)
        return dict(zip(places, both, strict=True))


def _baseline_activation(block: Block, baseline: Start, seen: SeenLayer) -> Tensor:
    """A(x') (n, ...), evaluated once if x' is the same for all."""
    origin, network = block.origin(baseline), block.evaluator.network
    if not baseline.same_for_all:
        return activation_of(network, seen.name, origin.x)[0]
    one, _ = activation_of(network, seen.name, origin.x[:1])
    return one.expand(len(block.x), *one.shape[1:])


def _parts(block: Block, count: int) -> Iterator[range]:
    """0, ..., count - 1, as many at a time as there are points in a batch."""
    together = max(1, block.batch_size // len(block.x))
    for first in range(0, count, together):
        yield range(first, min(first + together, count))


def _repeated(x: Tensor, count: int) -> Tensor:
    return x.repeat(count, *[1] * (x.dim() - 1))
