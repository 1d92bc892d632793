"""The methods one by one, for a notebook: ``maps = saliency(model, x).maps``.

Every function takes a model (an ``nn.Module``, or an ``Evaluator`` such as a tuned one), inputs x
(n, ...) of any floating point type on the model's device, and a target ('logit_pred' and so on,
or a class number), and returns an ``Attribution``. Keywords that all of them share:

- ``labels`` (n,): needed by the targets '*_true'.
- ``seed``: decides noise and random baselines together with a sample's place in x; or ``seeds``,
  one number per sample, so that a sample's map does not depend on its place.
- ``batch_size``: points evaluated at a time. No effect on the result beyond rounding.
- ``smooth``: ``NoisyCopies(samples, sigma)``: the mean of the maps of noisy copies, in place
  of the sample's own (SmoothGrad of any method).
- ``post``: steps on the finished map, in order, such as ``["abs", "channel_max"]``; see
  ``post_steps``.

A module is used in eval mode and left in the mode it was in. For several methods at once, use
``attribute``: it makes the passes that they share only once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from gradattr.attribution.baselines import Black, Normalization, as_baseline
from gradattr.attribution.evaluator import Evaluator, PlainEvaluator
from gradattr.attribution.passes import attribute
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.post_steps import PostStep
from gradattr.attribution.quadrature import RuleName
from gradattr.attribution.requests import MethodRequest, method_request
from gradattr.attribution.result import Attribution
from gradattr.attribution.sampling import NoisyCopies
from gradattr.attribution.target import TargetName
from gradattr.seeds import sample_seeds


class Common(TypedDict, total=False):
    """Keywords that every method has; see the module's docstring."""

    labels: Tensor | None
    seed: int
    seeds: Sequence[int] | None
    batch_size: int
    smooth: NoisyCopies | None
    post: Sequence[PostStep]


Model = nn.Module | Evaluator


def gradient(
    model: Model, x: Tensor, target: TargetName = "logit_pred", **common: Unpack[Common]
) -> Attribution:
    """g(x): the gradient of the target scalar (Baehrens et al. 2010)."""
    return run_request(model, x, method_request("gradient", target=target), **common)


def saliency(
    model: Model, x: Tensor, target: TargetName = "logit_pred", **common: Unpack[Common]
) -> Attribution:
    """|g(x)| (Simonyan et al. 2014)."""
    return run_request(model, x, method_request("saliency", target=target), **common)


def input_x_gradient(
    model: Model, x: Tensor, target: TargetName = "logit_pred", **common: Unpack[Common]
) -> Attribution:
    """x * g(x) (Shrikumar et al. 2016); the completeness gap is held against f(0)."""
    return run_request(model, x, method_request("input_x_gradient", target=target), **common)


def smoothgrad(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 50,
    sigma: float = 0.1,
    **common: Unpack[Common],
) -> Attribution:
    """Mean of g over ``samples`` copies with Gaussian noise (Smilkov et al. 2017).

    ``sigma``: standard deviation as a share of the image's range (max - min). 0 is the gradient.
    """
    request = method_request("smoothgrad", target=target, samples=samples, sigma=sigma)
    return run_request(model, x, request, **common)


def smoothgrad_x_input(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 50,
    sigma: float = 0.1,
    **common: Unpack[Common],
) -> Attribution:
    """x * SmoothGrad(x), with the clean x; parameters as in ``smoothgrad``."""
    request = method_request("smoothgrad_x_input", target=target, samples=samples, sigma=sigma)
    return run_request(model, x, request, **common)


def squaregrad(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 50,
    sigma: float = 0.1,
    **common: Unpack[Common],
) -> Attribution:
    """Mean of g^2 over noisy copies (Hooker et al. 2019); parameters as in ``smoothgrad``."""
    request = method_request("squaregrad", target=target, samples=samples, sigma=sigma)
    return run_request(model, x, request, **common)


def vargrad(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    samples: int = 50,
    sigma: float = 0.1,
    **common: Unpack[Common],
) -> Attribution:
    """Variance of g over noisy copies, divided by their number (Adebayo et al. 2018).

    Parameters as in ``smoothgrad``.
    """
    request = method_request("vargrad", target=target, samples=samples, sigma=sigma)
    return run_request(model, x, request, **common)


def integrated_gradients(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    steps: int = 50,
    rule: RuleName = "gauss_legendre",
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """(x - x') * integral of g from x' to x (Sundararajan et al. 2017).

    ``baseline``: a ``Baseline``, a number, or one input (1, ...); default black, which is 0 unless
    ``normalization`` says otherwise. Gap: sum of map - (f(x) - f(x')).
    """
    if isinstance(baseline, Tensor) and len(baseline) != 1:
        raise ValueError(
            f"baseline of shape {tuple(baseline.shape)}: one input (1, ...) expected; for random "
            "draws from a pool give Sample(pool)"
        )
    start = Black() if baseline is None else as_baseline(baseline)
    request = method_request(
        "integrated_gradients", target=target, steps=steps, rule=rule, baseline=start
    )
    return run_request(model, x, request, normalization, **common)


def expected_gradients(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    baseline: Start | Tensor | float,
    samples: int = 25,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """E (x - x') * g(x' + a (x - x')), a ~ U(0, 1) (Erion et al. 2021).

    ``baseline``: where x' is drawn from, a ``Baseline``, a number, or a pool of inputs (p, ...).
    Gap: sum of map - (f(x) - mean of f over the baselines).
    """
    request = method_request(
        "expected_gradients", target=target, samples=samples, baseline=as_baseline(baseline)
    )
    return run_request(model, x, request, normalization, **common)


def gradient_shap(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    baseline: Start | Tensor | float,
    samples: int = 25,
    stdev: float = 0.0,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Expected gradients of x + noise, as in Captum's GradientShap (Lundberg, Lee 2017).

    Each draw k has an end x_k = x + ``stdev`` n_k (units of the input), a baseline x'_k and a
    place a_k on the line between them; the map is the mean of (x_k - x'_k) * g there.
    """
    request = method_request(
        "gradient_shap",
        target=target,
        samples=samples,
        stdev=stdev,
        baseline=as_baseline(baseline),
    )
    return run_request(model, x, request, normalization, **common)


def random_attribution(
    model: Model, x: Tensor, target: TargetName = "logit_pred", **common: Unpack[Common]
) -> Attribution:
    """N(0, 1) for every coordinate: the control that a method must beat."""
    return run_request(model, x, method_request("random", target=target), **common)


def linear(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    linear_model: Model,
    **common: Unpack[Common],
) -> Attribution:
    """Gradient of ``linear_model``'s logit, for the class that ``target`` fixes on ``model``."""
    with evaluating(linear_model) as linear_evaluator:
        request = method_request("linear", target=target, linear_model=linear_evaluator)
        return run_request(model, x, request, **common)


@contextmanager
def evaluating(model: Model) -> Iterator[Evaluator]:
    """A plain evaluator of a module, whose training modes come back afterwards."""
    if not isinstance(model, nn.Module):
        yield model
        return
    modes = {module: module.training for module in model.modules()}
    try:
        yield PlainEvaluator(model)
    finally:
        for module, training in modes.items():
            module.training = training


def run_request(
    model: Model,
    x: Tensor,
    request: MethodRequest,
    normalization: Normalization | None = None,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    batch_size: int = 64,
    smooth: NoisyCopies | None = None,
    post: Sequence[PostStep] = (),
) -> Attribution:
    """The one method that is requested, with the keywords that all have."""
    request = replace(request, smooth=smooth, post=tuple(post))
    if seeds is None:
        seeds = sample_seeds(seed, "sample", map(str, range(len(x))))
    if labels is not None:
        labels = torch.as_tensor(labels)
    with evaluating(model) as evaluator:
        (result,) = attribute(
            evaluator,
            x,
            [request],
            seeds=seeds,
            labels=labels,
            normalization=normalization,
            batch_size=batch_size,
        )
    return result
