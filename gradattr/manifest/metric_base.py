"""What every metric has: a name in the tables, images that it looks at, and what it measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from gradattr.manifest.base import Label, Spec

Positive = Annotated[int, Field(gt=0)]
Above = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

Fill = Literal["mean", "black", "blur"] | float
"""What stands for missing pixels. 'mean': 0 in normalised space, the per-channel mean; 'black';
'blur': the image under a Gaussian blur; or a number in the space of the model's input."""


class Measure(NamedTuple):
    """One number that a metric gives every map."""

    name: str
    """What follows '<metric's id>_' in the tables; '' where the id alone is its name."""
    higher_is_better: bool | None
    """None: neither direction speaks for a method."""
    text: str
    """Unit and range, and what it says."""


class Curve(NamedTuple):
    """What a metric's number is the summary of."""

    name: str
    """As of a measure."""
    x: tuple[float, ...] | None
    """Where each step is; None: the steps have names, which the model decides."""


class MetricBase(Spec):
    """Fields that every metric shares."""

    cost: ClassVar[str] = "nothing beyond the map"
    """What judging an image takes beyond its maps, for people."""

    id: Label | None = None
    """Beginning of its names in the tables; must be unique in the manifest. Default: the metric."""
    images: Positive | None = None
    """Judge so many images only, drawn by the manifest's seed. Default: all."""

    def measures(self) -> tuple[Measure, ...]:
        """Its numbers; those of the table 'scores'."""
        return ()

    def curves(self) -> tuple[Curve, ...]:
        """Its curves; those of the table 'sample_curves'."""
        return ()


class ForwardMetric(MetricBase):
    """A metric that looks at the model's answers to changed images, and takes no gradient."""

    score: Literal["prob", "logit"] = "prob"
    """What is looked at, of the class that is explained."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of these forward passes. 'bf16' is faster where the hardware has it; how much it changes each
    score is measured on some images and recorded with the run."""


def named(metric: str, part: str) -> str:
    """'<metric>_<part>', or the metric alone."""
    return f"{metric}_{part}" if part else metric


def percentages(parts: Sequence[float]) -> tuple[float, ...]:
    """Shares from per cents."""
    return tuple(part / 100 for part in parts)
