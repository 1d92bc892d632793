"""``methods:`` -- attribution methods and their parameters, ``target:`` -- of what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradattr.manifest.base import Label, Spec
from gradattr.manifest.data import DataSpec
from gradattr.manifest.model import TrainSpec

Positive = Annotated[int, Field(gt=0)]

TargetKind = Literal["logit_pred", "logit_true", "loss_true", "loss_pred", "prob_pred"]

Rule = Literal["gauss_legendre", "right", "left", "trapezoid", "midpoint"]

Target = TargetKind | Annotated[int, Field(ge=0)]
"""The scalar that is differentiated. 'logit_pred': logit of the class predicted at x (default);
'logit_true': of the label; 'prob_pred': its softmax probability; 'loss_true', 'loss_pred':
cross-entropy; a number: the logit of that class."""


class BlackBaseline(Spec):
    """Every pixel 0 before normalisation."""

    kind: Literal["black"]


class MeanBaseline(Spec):
    """The per-channel mean that pre-processing subtracts, i.e. 0 in normalised space."""

    kind: Literal["mean"]


class BlurBaseline(Spec):
    """The image itself under a Gaussian blur."""

    kind: Literal["blur"]
    kernel: Annotated[int, Field(ge=3, le=255)] = 11
    """Pixels, odd."""
    sigma: Annotated[float, Field(gt=0)] = 5.0
    """Pixels."""


class NoiseBaseline(Spec):
    """The image plus Gaussian noise of the given strength (a fresh draw per image)."""

    kind: Literal["noise"]
    sigma: Annotated[float, Field(gt=0)] = 0.2
    """Share of the image's own range (max - min)."""


class UniformBaseline(Spec):
    """Independent uniform pixels between black and white (a fresh draw per image)."""

    kind: Literal["uniform"]


class SampleBaseline(Spec):
    """Images drawn from a pool of a data set (a fresh draw per image)."""

    kind: Literal["sample"]
    data: DataSpec | None = None
    """Where the pool comes from. Default: the attributed data itself."""
    count: Annotated[int, Field(gt=0, le=4096)] = 64
    """Images in the pool, drawn once by the manifest's seed."""


class Unlearning(Spec):
    """How UNI finds its baseline."""

    eta: Annotated[float, Field(gt=0)] = 1.0
    """Length of the step of gradient ascent that unlearns the image, over all parameters."""
    iterations: Positive = 10
    """Steps from the image to the baseline (model evaluations per image, plus 2)."""
    eps: Annotated[float, Field(gt=0)] = 0.25
    """Distance of the baseline from the image: Euclidean, in units of the model's input."""
    mu: Annotated[float, Field(gt=0)] = 0.1
    """Length of a step, in gradients."""


class UniBaseline(Unlearning):
    """The point near the image where the model answers as if it had unlearned it (UNI)."""

    kind: Literal["uni"]


AnyBaseline = Annotated[
    BlackBaseline
    | MeanBaseline
    | BlurBaseline
    | NoiseBaseline
    | UniformBaseline
    | SampleBaseline
    | UniBaseline,
    Field(discriminator="kind"),
]


def _expand_baseline(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Baseline = Annotated[AnyBaseline, BeforeValidator(_expand_baseline)]


class MethodBase(Spec):
    """Fields that every method shares."""

    id: Label | None = None
    """Value of the 'method' column; must be unique in the manifest. Default: the name."""

    target: Target | None = None
    """Overrides the manifest's target for this method."""


class GradientMethod(MethodBase):
    """Gradient, saliency (its absolute value), or input x gradient."""

    name: Literal["gradient", "saliency", "input_x_gradient"]


class SmoothMethod(MethodBase):
    """Statistics of the gradient over noisy copies: mean, input x mean, mean square, variance."""

    name: Literal["smoothgrad", "smoothgrad_x_input", "squaregrad", "vargrad"]
    samples: Positive = 50
    """Noisy copies per image."""
    sigma: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the noise as a share of the image's range (max - min)."""


class IntegratedGradientsMethod(MethodBase):
    """Gradients integrated on the straight line from a baseline to the image."""

    name: Literal["integrated_gradients"]
    steps: Positive = 50
    """Points on the line (model evaluations per image)."""
    rule: Rule = "gauss_legendre"
    """Quadrature."""
    baseline: Baseline = Field(default_factory=lambda: BlackBaseline(kind="black"))


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
    baseline: Baseline = Field(default_factory=lambda: BlackBaseline(kind="black"))


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


class RandomMethod(MethodBase):
    """Independent standard normal scores: the control that every other method must beat."""

    name: Literal["random"]


class LinearMethod(MethodBase):
    """The gradient of a linear model trained on the same task: the input-agnostic control."""

    name: Literal["linear"]
    train: TrainSpec | None = None
    """How to train it. Default: as the manifest's own model is trained."""


AnyMethod = Annotated[
    GradientMethod
    | SmoothMethod
    | IntegratedGradientsMethod
    | ExpectedGradientsMethod
    | UniMethod
    | BlurIgMethod
    | GuidedIgMethod
    | AgiMethod
    | RandomMethod
    | LinearMethod,
    Field(discriminator="name"),
]


def _expand_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


MethodSpec = Annotated[AnyMethod, BeforeValidator(_expand_method)]


def check_unique_ids(methods: Sequence[AnyMethod]) -> None:
    """Raise ValueError if two methods would have the same value in the column 'method'."""
    ids = [method.id or method.name for method in methods]
    twice = sorted({label for label in ids if ids.count(label) > 1})
    if twice:
        raise ValueError(
            f"methods: {', '.join(twice)} stands there more than once; give each an 'id' of its own"
        )
