"""``baseline:`` -- what stands for "nothing there"."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradattr.manifest.base import Spec
from gradattr.manifest.data import DataSpec

Positive = Annotated[int, Field(gt=0)]


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


def black() -> BlackBaseline:
    return BlackBaseline(kind="black")
