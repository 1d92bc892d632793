"""Methods for a notebook that only ask for answers: occlusion, LIME, KernelSHAP, RISE.

Their arguments are as in ``methods``. They take images x (n, c, h, w) and return one channel,
(n, 1, h, w). Where a part of the image is taken away, the ``baseline``'s pixels stand: a
``Baseline``, a number, or one input (1, c, h, w); default black.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from gradattr.attribution.baselines import Black, Normalization, as_baseline
from gradattr.attribution.methods import Common, Model, run_request
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.perturbation.segments import SegmentsName
from gradattr.attribution.requests import method_request
from gradattr.attribution.result import Attribution
from gradattr.attribution.target import TargetName


def occlusion(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    window: int | None = None,
    stride: int | None = None,
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """How the score falls when a sliding window is replaced (Zeiler & Fergus 2014).

    At a pixel: the mean of f(x) - f(x with the window replaced) over the windows that cover it.
    ``window`` pixels (None: an eighth of the shorter side), every ``stride`` pixels (None: half the
    window); cut off at the border. Raises MethodError if the window is larger than the images.
    """
    request = method_request(
        "occlusion", target=target, window=window, stride=stride, baseline=_start(baseline)
    )
    return run_request(model, x, request, normalization, **common)


def lime(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 1000,
    segments: SegmentsName = "grid",
    count: int = 49,
    kernel_width: float = 0.25,
    ridge: float = 1.0,
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Coefficients of a linear model of the score, of segments that are there or not (Ribeiro et
    al. 2016); every pixel has its segment's.

    ``samples`` masks of about ``count`` ``segments``: 'grid' cells, or 'slic' superpixels, which
    need scikit-image. ``kernel_width`` weights masks by closeness to the image, ``ridge`` penalises
    the squared coefficients.
    """
    request = method_request(
        "lime",
        target=target,
        samples=samples,
        segments=segments,
        count=count,
        kernel_width=kernel_width,
        ridge=ridge,
        baseline=_start(baseline),
    )
    return run_request(model, x, request, normalization, **common)


def kernel_shap(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 1000,
    segments: SegmentsName = "grid",
    count: int = 49,
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Shapley values of segments by weighted least squares, each spread evenly over its pixels
    (Lundberg & Lee 2017).

    ``samples``, ``segments`` and ``count`` as of ``lime``; exact where ``samples`` >= 2^m - 2 for m
    segments. Gap: sum of map - (f(x) - f(x')), 0 but for rounding.
    """
    request = method_request(
        "kernel_shap",
        target=target,
        samples=samples,
        segments=segments,
        count=count,
        baseline=_start(baseline),
    )
    return run_request(model, x, request, normalization, **common)


def rise(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Mean of smooth random masks, weighted by the score behind them (Petsiuk et al. 2018).

    ``samples`` masks of ``cells`` x ``cells`` cells, each kept with probability ``keep``; the same
    for every image, whatever the seed. Published for probabilities: target 'prob_pred', baseline 0.
    """
    request = method_request(
        "rise",
        target=target,
        samples=samples,
        cells=cells,
        keep=keep,
        baseline=_start(baseline),
    )
    return run_request(model, x, request, normalization, **common)


def _start(baseline: Start | Tensor | float | None) -> Start:
    if isinstance(baseline, Tensor) and len(baseline) != 1:
        raise ValueError(
            f"baseline of shape {tuple(baseline.shape)}: one input (1, ...) expected; for random "
            "draws from a pool give Sample(pool)"
        )
    return Black() if baseline is None else as_baseline(baseline)
