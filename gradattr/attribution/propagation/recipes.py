"""Recipes of the methods that propagate by rules of their own: DeepLIFT, DeepSHAP, LRP."""

from __future__ import annotations

from collections.abc import Callable

from gradattr.attribution.baselines import Black
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.propagation.deep_lift_maps import DeepLift, DeepShap
from gradattr.attribution.propagation.relevance import Relevance
from gradattr.attribution.propagation.relevance_flow import Composite
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sources import Recipe


def _deep_lift(baseline: Start | None = None) -> Recipe:
    return DeepLift(baseline or Black()), Reduction.MEAN


def _deep_shap(baseline: Start, samples: int = 25) -> Recipe:
    return DeepShap(baseline, samples), Reduction.MEAN


def _lrp(rule: Composite = "epsilon", epsilon: float = 1e-6) -> Recipe:
    return Relevance(rule, epsilon), Reduction.MEAN


PROPAGATION_RECIPES: dict[str, Callable[..., Recipe]] = {
    "deep_lift": _deep_lift,
    "deep_shap": _deep_shap,
    "lrp": _lrp,
}
