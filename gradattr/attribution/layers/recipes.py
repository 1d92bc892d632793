"""Recipes of the methods that change how ReLUs differentiate, and of those that look at a layer."""

from __future__ import annotations

from collections.abc import Callable

from gradattr.attribution.baselines import Black
from gradattr.attribution.layers.cam import GradCam, GuidedGradCam
from gradattr.attribution.layers.layer_attributions import (
    LayerActivation,
    LayerConductance,
    LayerGradientTimesActivation,
    LayerIntegratedGradients,
)
from gradattr.attribution.layers.rectified_gradients import RectifiedGradient
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.quadrature import RuleName
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sources import Recipe


def _guided_backprop() -> Recipe:
    return RectifiedGradient("guided"), Reduction.MEAN


def _deconvolution() -> Recipe:
    return RectifiedGradient("deconvolution"), Reduction.MEAN


def _grad_cam(layer: str | None = None) -> Recipe:
    return GradCam(layer), Reduction.MEAN


def _grad_cam_plus_plus(layer: str | None = None) -> Recipe:
    return GradCam(layer, weighting="plus_plus"), Reduction.MEAN


def _guided_grad_cam(layer: str | None = None) -> Recipe:
    return GuidedGradCam(layer), Reduction.MEAN


def _layer_activation(layer: str | None = None) -> Recipe:
    return LayerActivation(layer), Reduction.MEAN


def _layer_gradient_x_activation(layer: str | None = None) -> Recipe:
    return LayerGradientTimesActivation(layer), Reduction.MEAN


def _layer_integrated_gradients(
    layer: str | None = None,
    steps: int = 50,
    rule: RuleName = "gauss_legendre",
    baseline: Start | None = None,
) -> Recipe:
    return LayerIntegratedGradients(layer, steps, rule, baseline or Black()), Reduction.MEAN


def _layer_conductance(
    layer: str | None = None,
    steps: int = 50,
    rule: RuleName = "gauss_legendre",
    baseline: Start | None = None,
) -> Recipe:
    return LayerConductance(layer, steps, rule, baseline or Black()), Reduction.MEAN


RECTIFIED_RECIPES: dict[str, Callable[..., Recipe]] = {
    "guided_backprop": _guided_backprop,
    "deconvolution": _deconvolution,
}

LAYER_RECIPES: dict[str, Callable[..., Recipe]] = {
    "grad_cam": _grad_cam,
    "grad_cam_plus_plus": _grad_cam_plus_plus,
    "guided_grad_cam": _guided_grad_cam,
    "layer_activation": _layer_activation,
    "layer_gradient_x_activation": _layer_gradient_x_activation,
    "layer_integrated_gradients": _layer_integrated_gradients,
    "layer_conductance": _layer_conductance,
}
