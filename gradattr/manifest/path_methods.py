"""Methods that add gradients up along a path from a baseline."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradattr.manifest.baselines import Baseline, Positive, SampleBaseline, Unlearning, black
from gradattr.manifest.method_base import MethodBase, Rule, Target


class IntegratedGradientsMethod(MethodBase):
    """Gradients integrated on the straight line from a baseline to the image."""

    name: Literal["integrated_gradients"]
    steps: Positive = 50
    """Points on the line (model evaluations per image)."""
    rule: Rule = "gauss_legendre"
    """Quadrature."""
    baseline: Baseline = Field(default_factory=black)


class ExpectedGradientsMethod(MethodBase):
    """E[(x - x') * gradient at a random point between x' and x], x' drawn from a pool."""

    name: Literal["expected_gradients", "gradient_shap"]
    samples: Positive = 25
    """Draws per image (model evaluations per image)."""
    stdev: Annotated[float, Field(ge=0)] = 0.0
    """Gradient SHAP only: standard deviation of Gaussian noise added to the image first,
    in units of the model's input."""
    baseline: Baseline = Field(default_factory=lambda: SampleBaseline(kind="sample"))


class UniMethod(MethodBase, Unlearning):
    """UNI: a probability's gradients integrated from the point nearby where the model answers as
    if it had unlearned the image."""

    name: Literal["uni"]
    target: Target | None = "prob_pred"
    """Default: as published, whatever the manifest's target; null: the manifest's."""
    steps: Positive = 15
    """Points on the line from there to the image."""
    rule: Rule = "right"
    """Quadrature."""


class BlurIgMethod(MethodBase):
    """BlurIG: gradients integrated from a blurred image to the image, through scale space."""

    name: Literal["blur_ig"]
    max_sigma: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the strongest blur, in pixels. Default: 50 for images of 224 pixels,
    in proportion for others."""
    steps: Positive = 100
    """Points on the path (model evaluations per image)."""
    rule: Rule = "right"
    """Quadrature."""


class GuidedIgMethod(MethodBase):
    """Guided IG: integrated gradients on a path along the smallest gradients."""

    name: Literal["guided_ig"]
    steps: Positive = 200
    """Points on the path (model evaluations per image)."""
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of the coordinates that move at a time."""
    max_dist: Annotated[float, Field(ge=0, le=1)] = 0.02
    """How far a coordinate may be from its place on the straight line: share of the line."""
    baseline: Baseline = Field(default_factory=black)


class AgiMethod(MethodBase):
    """AGI: gradients integrated along adversarial paths to other classes, averaged over them."""

    name: Literal["agi"]
    target: Target | None = "prob_pred"
    """Default: as published, whatever the manifest's target; null: the manifest's."""
    iterations: Positive = 20
    """Steps towards a class, at most (two gradients per image each)."""
    classes: Positive = 20
    """Other classes, evenly spaced; all if there are fewer."""
    eps: Annotated[float, Field(gt=0)] = 0.05
    """Length of a step, in pixels of range 1."""
    step_from: Literal["current", "original"] = "current"
    """Where a step starts; 'original', the image itself, is what the published code does."""
