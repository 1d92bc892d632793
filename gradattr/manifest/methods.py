"""``methods:`` -- attribution methods and their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradattr.manifest.baselines import Positive
from gradattr.manifest.method_base import MethodBase
from gradattr.manifest.model import TrainSpec
from gradattr.manifest.network_methods import NetworkMethod
from gradattr.manifest.path_methods import (
    AgiMethod,
    BlurIgMethod,
    ExpectedGradientsMethod,
    GuidedIgMethod,
    IntegratedGradientsMethod,
    UniMethod,
)
from gradattr.manifest.perturbation_methods import PerturbationMethod


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
    | NetworkMethod
    | PerturbationMethod
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
