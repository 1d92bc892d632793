"""Layer-wise relevance propagation (LRP): the answer, shared out from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.layers.rectifiers import compiled_module
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.propagation.interception import Unfit
from gradattr.attribution.propagation.relevance_flow import (
    CONVOLUTIONS,
    Composite,
    Propagating,
    Raw,
)
from gradattr.attribution.target import Objective
from gradattr.errors import MethodError


@dataclass(frozen=True)
class Relevance(Procedure):
    r"""LRP of the scalar at x (n, ...), with the rules of a composite (Bach et al. 2015).

    - 'epsilon': :math:`R_i = a_i \sum_j w_{ij} R_j / (z_j + \epsilon\, \mathrm{sign} z_j)`
      everywhere.
    - 'epsilon_plus_flat': convolutions share out by positive contributions alone (z+), the first
      layer in equal parts (flat), linear layers by the epsilon rule.
    - 'epsilon_alpha2_beta1_flat': convolutions by twice the positive less the negative
      contributions.

    These are zennit's composites of that name, its stabiliser being ``epsilon`` as well. A batch
    norm in eval mode is part of the convolution or linear layer before it (zennit's
    SequentialMergeBatchNorm); if there is none, a layer of its own with the epsilon rule. Sums and
    averages have the epsilon rule. Activation functions hand relevance on as it is, and have to be
    0 at 0. In max-pooling the winner takes it all. Products with constants hand it on.

    It begins with :math:`z_j \partial S / \partial z_j` at the logits z: the logit itself, if that
    is explained. What biases and epsilon absorb is the gap.
    """

    rule: Composite = "epsilon"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.rule not in CONVOLUTIONS:
            raise ValueError(
                f"rule: {self.rule!r} given, expected one of {', '.join(CONVOLUTIONS)}"
            )
        if not self.epsilon > 0:
            raise ValueError(f"epsilon: {self.epsilon} given, more than 0 expected")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 1

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        network = block.evaluator.network
        try:
            leaf, logits, flat = self._forward(network, block.x)
        except Unfit as reason:
            raise MethodError(str(reason)) from None
        with torch.enable_grad():
            answer = logits.detach().requires_grad_(True)
            score = objective(answer, index)
            (share,) = torch.autograd.grad(score.sum(), answer)
        (grad,) = torch.autograd.grad(logits, leaf, share)
        maps = grad if flat else block.x * grad
        given = (answer.detach() * share).sum(1)
        return Made(maps, score.detach() - given, degenerate=(maps == 0).flatten(1).all(1))

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        compiled = compiled_module(network)
        if compiled is not None:
            return f"{compiled} is compiled, its operations are out of reach"
        try:
            self._forward(network, x[:1])
        except Unfit as reason:
            return str(reason)
        return None

    def _forward(self, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, bool]:
        """(the input, the logits (n, classes), whether relevance itself comes back)."""
        mode = Propagating(self.rule, self.epsilon, network)
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            # A copy: some models write into their input.
            given = leaf.clone()
            mode.mark(given, Raw() if mode.flat else "dependent")
            with mode:
                logits = network(given)
        mode.check_seen(logits)
        return leaf, logits, mode.flat
