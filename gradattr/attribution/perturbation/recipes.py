"""Recipes of the perturbation methods; see ``recipes``."""

from __future__ import annotations

from collections.abc import Callable

from gradattr.attribution.baselines import Black
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.perturbation.segments import SegmentsName
from gradattr.attribution.perturbation.sliding_windows import Occlusion
from gradattr.attribution.perturbation.smooth_masks import Rise
from gradattr.attribution.perturbation.surrogates import KernelShap, Lime
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sources import Recipe


def _occlusion(
    window: int | None = None, stride: int | None = None, baseline: Start | None = None
) -> Recipe:
    return Occlusion(baseline or Black(), window, stride), Reduction.MEAN


def _lime(
    samples: int = 1000,
    segments: SegmentsName = "grid",
    count: int = 49,
    kernel_width: float = 0.25,
    ridge: float = 1.0,
    baseline: Start | None = None,
) -> Recipe:
    method = Lime(baseline or Black(), samples, segments, count, kernel_width, ridge)
    return method, Reduction.MEAN


def _kernel_shap(
    samples: int = 1000,
    segments: SegmentsName = "grid",
    count: int = 49,
    baseline: Start | None = None,
) -> Recipe:
    return KernelShap(baseline or Black(), samples, segments, count), Reduction.MEAN


def _rise(
    samples: int = 4000, cells: int = 7, keep: float = 0.5, baseline: Start | None = None
) -> Recipe:
    return Rise(baseline or Black(), samples, cells, keep), Reduction.MEAN


PERTURBATION_RECIPES: dict[str, Callable[..., Recipe]] = {
    "occlusion": _occlusion,
    "lime": _lime,
    "kernel_shap": _kernel_shap,
    "rise": _rise,
}
