"""What every method has: a name in the tables, a target, and steps around it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradattr.manifest.base import Label, Spec
from gradattr.manifest.baselines import Positive

TargetKind = Literal["logit_pred", "logit_true", "loss_true", "loss_pred", "prob_pred"]

Rule = Literal["gauss_legendre", "right", "left", "trapezoid", "midpoint"]

Target = TargetKind | Annotated[int, Field(ge=0)]
"""The scalar that is differentiated. 'logit_pred': logit of the class predicted at x (default);
'logit_true': of the label; 'prob_pred': its softmax probability; 'loss_true', 'loss_pred':
cross-entropy; a number: the logit of that class."""

PostStep = Literal[
    "abs",
    "square",
    "relu",
    "negate",
    "channel_sum",
    "channel_mean",
    "channel_max",
    "channel_l2",
    "normalize_max",
    "normalize_sum",
    "normalize_range",
]


class Smooth(Spec):
    """SmoothGrad of any method: the mean of its maps of noisy copies of the image."""

    samples: Positive = 10
    """Noisy copies per image; the method runs on each."""
    sigma: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the noise as a share of the image's range (max - min)."""


def _absent(value: object) -> bool:
    return value is None or value == []


class MethodBase(Spec):
    """Fields that every method shares."""

    id: Label | None = None
    """Value of the 'method' column; must be unique in the manifest. Default: the name."""

    target: Target | None = None
    """Overrides the manifest's target for this method."""

    smooth: Smooth | None = Field(default=None, exclude_if=_absent)
    """The mean of the method's maps of noisy copies, in place of the image's own map."""

    post: list[PostStep] = Field(default=[], max_length=8, exclude_if=_absent)
    """Steps on the finished map, in order. 'channel_sum', 'channel_mean', 'channel_max',
    'channel_l2': one value per pixel; 'normalize_max', 'normalize_sum', 'normalize_range': each
    map by its own largest |value|, its sum of |values|, its range."""
