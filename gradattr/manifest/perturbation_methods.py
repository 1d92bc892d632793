"""Methods that only ask for answers: parts of the image are replaced by a baseline's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradattr.manifest.baselines import Baseline, Positive, black
from gradattr.manifest.method_base import MethodBase


class OcclusionMethod(MethodBase):
    """Occlusion: how the score falls when a sliding window is replaced."""

    name: Literal["occlusion"]
    window: Positive | None = None
    """Side in pixels. Default: an eighth of the image's shorter side."""
    stride: Positive | None = None
    """Pixels between windows. Default: half a window."""
    baseline: Baseline = Field(default_factory=black)


class SegmentsBase(MethodBase):
    """Methods that switch segments of the image on and off."""

    samples: Positive = 1000
    """Combinations of segments per image (model evaluations)."""
    segments: Literal["grid", "slic"] = "grid"
    """Cells of a grid, or superpixels (needs gradattr[superpixels])."""
    count: Annotated[int, Field(ge=2, le=4096)] = 49
    """Segments per image, about."""
    baseline: Baseline = Field(default_factory=black)


class LimeMethod(SegmentsBase):
    """LIME: a linear model of the answers, weighted by closeness to the image."""

    name: Literal["lime"]
    kernel_width: Annotated[float, Field(gt=0)] = 0.25
    """Of the exponential kernel on the cosine distance of the combinations."""
    ridge: Annotated[float, Field(ge=0)] = 1.0
    """Penalty on the squared coefficients."""


class KernelShapMethod(SegmentsBase):
    """KernelSHAP: Shapley values of the segments by weighted least squares."""

    name: Literal["kernel_shap"]


class RiseMethod(MethodBase):
    """RISE: the mean of random masks, weighted by the score of the image behind them."""

    name: Literal["rise"]
    samples: Positive = 4000
    """Masks (model evaluations per image)."""
    cells: Annotated[int, Field(ge=2, le=64)] = 7
    """Cells of a mask, on a side."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability that a cell is kept."""
    baseline: Baseline = Field(default_factory=black)


PerturbationMethod = OcclusionMethod | LimeMethod | KernelShapMethod | RiseMethod
