"""Maps from attention weights: of one block, through all blocks, and by their gradients.

Attention says where a token takes from, not what for: the first two are the same map for every
class. Only the gradient knows the score.

Shapes: n images, t tokens, h heads.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gradattr.attribution.block import Block
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.target import Objective, logit
from gradattr.attribution.transformer.attention_capture import Attended, watch_attention
from gradattr.attribution.transformer.attention_tokens import tokens_of
from gradattr.errors import MethodError

#: The mean over heads, or one of them, from 0.
Head = Literal["mean"] | int


@dataclass(frozen=True)
class AttentionMaps(Procedure):
    """What the methods have in common: one pass through the network, and the way to a map."""

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        return 1

    def run(self, block: Block, index: Tensor, objective: Objective) -> Made:
        maps = self.maps(block.evaluator.network, block.x, index, objective)
        return Made(maps, degenerate=(maps == 0).flatten(1).all(1))

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        # An empty image beside the first: a class token is the same in both.
        tried = torch.cat([x[:1], torch.zeros_like(x[:1])])
        index = torch.zeros(2, dtype=torch.long, device=x.device)
        try:
            self.maps(network, tried, index, logit)
        except MethodError as error:
            return str(error)
        return None

    @abstractmethod
    def maps(self, network: nn.Module, x: Tensor, index: Tensor, objective: Objective) -> Tensor:
        """(n, 1, H, W); MethodError says why there are none."""


@dataclass(frozen=True)
class RawAttention(AttentionMaps):
    """A of one block: what the class token takes from each patch there; without a class token, what
    the patches take from it on average."""

    block: int = -1
    """In call order, from 0; -1 is the last."""
    head: Head = "mean"

    def __post_init__(self) -> None:
        check_head(self.head)

    def maps(self, network: nn.Module, x: Tensor, index: Tensor, objective: Objective) -> Tensor:
        chosen = _Chosen(self.block)
        with torch.no_grad():
            watch_attention(network, x, chosen.note)
        attended = chosen.found()
        return _maps(_of_head(attended, self.head), x, chosen.front_varies)


@dataclass(frozen=True)
class AttentionTimesGradient(AttentionMaps):
    """A * dS/dA of one block, in the place of A; signed. For target 'logit_*' of a block that S
    is linear in: what each patch contributes by being attended to."""

    block: int = -1
    """In call order, from 0; -1 is the last."""
    head: Head = "mean"

    def __post_init__(self) -> None:
        check_head(self.head)

    def maps(self, network: nn.Module, x: Tensor, index: Tensor, objective: Objective) -> Tensor:
        chosen = _Chosen(self.block)
        with torch.enable_grad():
            # Weights are part of a graph even where no parameter is trainable.
            logits = watch_attention(network, x.detach().requires_grad_(), chosen.note)
            attended = chosen.found()
            weights, score = attended.whole(), objective(logits, index).sum()
            slope = None
            if weights.requires_grad and score.requires_grad:
                (slope,) = torch.autograd.grad(score, weights, allow_unused=True)
        if slope is None:
            raise MethodError(
                f"{attended.name}: the logits are no differentiable function of its weights"
            )
        product = replace(attended, weights=weights.detach() * slope)
        return _maps(_of_head(product, self.head), x, chosen.front_varies)


@dataclass(frozen=True)
class AttentionRollout(AttentionMaps):
    """B_L ... B_1, what reaches the class token through all blocks (Abnar, Zuidema 2020).

    B is (A + I) / 2 with ``residual``, where a token keeps half of itself, else A; rows add up to
    1. A is the mean over heads, or one head.
    """

    residual: bool = True
    head: Head = "mean"

    def __post_init__(self) -> None:
        check_head(self.head)

    def maps(self, network: nn.Module, x: Tensor, index: Tensor, objective: Objective) -> Tensor:
        rolled: list[Tensor] = []
        varies: list[bool] = []

        def note(attended: Attended) -> None:
            step = rollout_step(_of_head(attended, self.head), residual=self.residual)
            varies.append(attended.front_varies)
            if rolled and rolled[0].shape != step.shape:
                raise MethodError(
                    f"{attended.name} has {step.shape[1]} tokens where those before have "
                    f"{rolled[0].shape[1]}: rollout follows the same tokens through all"
                )
            rolled[:] = [step @ rolled[0] if rolled else step]

        with torch.no_grad():
            watch_attention(network, x, note)
        return _maps(rolled[0], x, any(varies))


def rollout_step(attention: Tensor, *, residual: bool) -> Tensor:
    """B (n, t, t) of a block with A (n, t, t): (A + I) / 2 or A, each row divided by its sum."""
    if residual:
        attention = (attention + torch.eye(attention.shape[1]).to(attention)) / 2
    return attention / attention.sum(2, keepdim=True)


def check_head(head: Head) -> None:
    """Raise ValueError for a head that no network has."""
    if head != "mean" and (isinstance(head, bool) or not isinstance(head, int) or head < 0):
        raise ValueError(f"head: {head!r} given, expected 'mean' or a number from 0")


class _Chosen:
    """Keeps one call of many: a number from the front, or from the end if it is negative."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.kept: deque[Attended] = deque(maxlen=max(1, -block))
        self.count = 0
        self.front_varies = False

    def note(self, attended: Attended) -> None:
        self.count += 1
        self.front_varies |= attended.front_varies
        if self.block < 0 or attended.number == self.block:
            self.kept.append(attended)

    def found(self) -> Attended:
        """The call; MethodError if there are fewer."""
        if not -self.count <= self.block < self.count:
            raise MethodError(
                f"block {self.block} is asked for, and attention is called {self.count} times "
                f"({-self.count} to {self.count - 1})"
            )
        return self.kept[0]


def _of_head(attended: Attended, head: Head) -> Tensor:
    """(n, t, t)"""
    weights = attended.whole()
    if head == "mean":
        return weights.mean(1)
    if head >= weights.shape[1]:
        raise MethodError(f"head {head} is asked for, and {attended.name} has {weights.shape[1]}")
    return weights[:, head]


def _maps(attention: Tensor, x: Tensor, front_varies: bool) -> Tensor:
    tokens = tokens_of(attention.shape[1], x)
    if tokens.class_token and front_varies:
        raise MethodError(
            f"the first of its {attention.shape[1]} tokens depends on the image: it is no class "
            "token"
        )
    return tokens.maps(attention, (x.shape[2], x.shape[3]))
