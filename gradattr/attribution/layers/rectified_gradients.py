"""Guided backprop and deconvolution: the gradient, with another derivative of the ReLUs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.layers.rectifiers import Rectifying, Rule
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.target import Objective
from gradattr.errors import MethodError


@dataclass(frozen=True)
class RectifiedGradient(Procedure):
    """The gradient of the scalar at x (n, ...) where ReLUs hand on only what is positive.

    'guided' (Springenberg et al. 2015): g [g > 0] [x > 0]. 'deconvolution' (Zeiler, Fergus 2014):
    g [g > 0]. Everything else (max-pooling, normalisation, gates) keeps its derivative.
    """

    rule: Rule = "guided"

    def __post_init__(self) -> None:
        if self.rule not in ("guided", "deconvolution"):
            raise ValueError(f"rule: {self.rule!r} given, 'guided' or 'deconvolution' expected")

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 1

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        maps = self.maps(block, index, objective)
        return Made(maps, degenerate=(maps == 0).flatten(1).all(1))

    def maps(self, block: Block, index: Tensor, objective: Objective) -> Tensor:
        """(n, ...) like the samples. Raises MethodError where ``obstacle`` has a reason."""
        evaluator, h = block.evaluator, block.h
        with Rectifying(self.rule) as mode:
            _, grads, _ = evaluator.gradients(h, index, objective)
        reason = mode.obstacle(evaluator.network)
        if reason is not None:
            raise MethodError(reason)
        return evaluator.pullback(grads, block.x.shape)

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        with torch.enable_grad(), Rectifying(self.rule) as mode:
            leaf = x[:1].detach().clone().requires_grad_(True)
            logits = network(leaf.clone())
            if logits.requires_grad:
                torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
        return mode.obstacle(network)
