"""Metrics that change images and look at what the model says then."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gradattr.manifest.metric_base import (
    Above,
    Curve,
    Fill,
    ForwardMetric,
    Measure,
    Positive,
    Share,
    percentages,
)

Rank = Literal["signed", "magnitude"]


class _Blurred(ForwardMetric):
    """Parameters of the blur that may stand for missing pixels."""

    kernel: Annotated[int, Field(ge=3, le=255)] = 11
    """Pixels, odd: the blur's size, where it is used."""
    sigma: Above = 5.0
    """Pixels: the blur's standard deviation."""

    @model_validator(mode="after")
    def _odd(self) -> _Blurred:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel}: expected an odd number of pixels")
        return self


class _Stepwise(_Blurred):
    steps: Annotated[int, Field(ge=1, le=1000)] = 10
    """Steps from the image as it is to the end; scores at steps + 1 points."""
    per_pixel: bool = True
    """All channels of a pixel change together. Off: every coordinate on its own."""
    rank: Rank = "signed"
    """What orders the pixels: the map's sum over channels, or that of its magnitudes."""

    def curves(self) -> tuple[Curve, ...]:
        return (Curve("", tuple(step / self.steps for step in range(self.steps + 1))),)


class DeletionMetric(_Stepwise):
    """Deletion (Petsiuk et al. 2018): the score as the highest-ranked pixels are replaced, a step
    at a time; the area under that curve. A faithful map makes it fall at once."""

    cost: ClassVar[str] = "steps - 1 forward passes per method, and at most 1 for all of them"

    metric: Literal["deletion"]
    fill: Fill = "mean"
    """What replaced pixels become."""

    def measures(self) -> tuple[Measure, ...]:
        text = "area under the deletion curve, in the score's unit (probability: 0 to 1)"
        return (Measure("auc", False, text),)


class InsertionMetric(_Stepwise):
    """Insertion (Petsiuk et al. 2018): the score as the highest-ranked pixels appear in an image
    without detail; the area under that curve. A faithful map makes it rise at once."""

    cost: ClassVar[str] = "steps - 1 forward passes per method, and at most 1 for all of them"

    metric: Literal["insertion"]
    start: Fill = "blur"
    """What the pixels appear in."""

    def measures(self) -> tuple[Measure, ...]:
        text = "area under the insertion curve, in the score's unit (probability: 0 to 1)"
        return (Measure("auc", True, text),)


class MuFidelityMetric(_Blurred):
    """MuFidelity (Bhatt et al. 2020): the correlation, over random subsets of a grid's cells, of
    what the map says a subset is worth with what the score loses without it."""

    cost: ClassVar[str] = "subsets forward passes for all methods together"

    metric: Literal["mu_fidelity"]
    subsets: Annotated[int, Field(ge=2, le=100_000)] = 200
    """Random subsets per image."""
    share: Share = 0.25
    """Share of the cells that a subset takes away."""
    grid: Annotated[int, Field(ge=2, le=1000)] = 9
    """Cells along each side."""
    fill: Fill = "mean"
    """What removed pixels become."""

    def measures(self) -> tuple[Measure, ...]:
        signed = "the correlation with its sign, -1 to 1"
        return (
            Measure("spearman", True, "|rank correlation|, 0 to 1, as UNI's tables have it"),
            Measure("pearson", True, "|correlation|, 0 to 1"),
            Measure("spearman_signed", True, signed),
            Measure("pearson_signed", True, signed),
        )


class RoadMetric(ForwardMetric):
    """ROAD (Rong et al. 2022): pixels are removed so that no shape of the mask is left for the
    model to read, the most relevant first and the least relevant first."""

    cost: ClassVar[str] = (
        "2 forward passes per percentage and method, and a system of equations before each"
    )

    metric: Literal["road"]
    percentages: list[Annotated[float, Field(gt=0, lt=100)]] = Field(
        default=[10, 20, 30, 40, 50, 60, 70, 80, 90], min_length=1, max_length=100
    )
    """Per cents of the pixels that are removed."""
    noise: Annotated[float, Field(ge=0)] = 0.01
    """Standard deviation of what is added to the filled-in pixels, in units of the model's
    input."""
    rank: Rank = "signed"
    """What orders the pixels: the map's sum over channels, or that of its magnitudes."""

    def measures(self) -> tuple[Measure, ...]:
        text = "mean of (least relevant first - most relevant first) / 2; probability: -0.5 to 0.5"
        return (Measure("score", True, text),)

    def curves(self) -> tuple[Curve, ...]:
        x = percentages(self.percentages)
        names = ("morf", "lerf", "morf_accuracy", "lerf_accuracy")
        return tuple(Curve(name, x) for name in names)

    @model_validator(mode="after")
    def _ascending(self) -> RoadMetric:
        if self.percentages != sorted(set(self.percentages)):
            raise ValueError("percentages: give them in ascending order, each once")
        return self


class InfidelityMetric(ForwardMetric):
    """Infidelity (Yeh et al. 2019): how badly the map predicts what a random perturbation does to
    the score."""

    cost: ClassVar[str] = "samples forward passes for all methods together"

    metric: Literal["infidelity"]
    perturbation: Literal["gaussian", "square"] = "gaussian"
    """Noise on every value; or a square at a random place becomes black."""
    noise: Above = 0.2
    """'gaussian': standard deviation, in pixels of 0 to 1."""
    size: Positive | None = None
    """'square': side in pixels. Default: a quarter of the shorter side."""
    samples: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Perturbations per image."""

    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("", False, "mean squared error, 0 or more, in squared units of the score"),
            Measure("scaled", False, "the same with the best scale for the map: compares methods"),
        )


FaithfulnessMetric = (
    DeletionMetric | InsertionMetric | MuFidelityMetric | RoadMetric | InfidelityMetric
)
