"""Recipes of the methods that read attention."""

from __future__ import annotations

from collections.abc import Callable

from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sources import Recipe
from gradattr.attribution.transformer.attention_maps import (
    AttentionRollout,
    AttentionTimesGradient,
    Head,
    RawAttention,
)


def _attention(block: int = -1, head: Head = "mean") -> Recipe:
    return RawAttention(block, head), Reduction.MEAN


def _attention_rollout(residual: bool = True, head: Head = "mean") -> Recipe:
    return AttentionRollout(residual, head), Reduction.MEAN


def _attention_x_gradient(block: int = -1, head: Head = "mean") -> Recipe:
    return AttentionTimesGradient(block, head), Reduction.MEAN


ATTENTION_RECIPES: dict[str, Callable[..., Recipe]] = {
    "attention": _attention,
    "attention_rollout": _attention_rollout,
    "attention_x_gradient": _attention_x_gradient,
}
