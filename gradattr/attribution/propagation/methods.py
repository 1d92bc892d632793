"""More methods for a notebook: those that propagate by rules of their own.

Their arguments are as in ``methods``. All three raise MethodError for a model with an operation
that has no rule, and name it.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from gradattr.attribution.baselines import Black, Normalization, as_baseline
from gradattr.attribution.methods import Common, Model, run_request
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.propagation.relevance_flow import Composite
from gradattr.attribution.requests import method_request
from gradattr.attribution.result import Attribution
from gradattr.attribution.target import TargetName


def deep_lift(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """(x - x') times multipliers that are exact from x' to x (Shrikumar et al. 2017, rescale rule).

    ``baseline`` as of ``integrated_gradients``. Gap: sum of map - (f(x) - f(x')), only rounding;
    see ``DeepLift`` for the rules.
    """
    start = Black() if baseline is None else as_baseline(baseline)
    request = method_request("deep_lift", target=target, baseline=start)
    return run_request(model, x, request, normalization, **common)


def deep_shap(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    baseline: Start | Tensor,
    samples: int = 25,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """The mean of DeepLIFT over ``samples`` draws of the baseline (Lundberg, Lee 2017).

    ``baseline``: a tensor (p, ...) is a pool to draw from. Gap: against the mean of f over the
    draws, only rounding.
    """
    request = method_request(
        "deep_shap", target=target, baseline=as_baseline(baseline), samples=samples
    )
    return run_request(model, x, request, normalization, **common)


def lrp(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    rule: Composite = "epsilon",
    epsilon: float = 1e-6,
    **common: Unpack[Common],
) -> Attribution:
    """Layer-wise relevance propagation (Bach et al. 2015).

    ``rule``: 'epsilon' everywhere, or a composite for convolutional networks,
    'epsilon_plus_flat' or 'epsilon_alpha2_beta1_flat'; see ``Relevance``. The gap is what biases
    and ``epsilon`` absorb.
    """
    request = method_request("lrp", target=target, rule=rule, epsilon=epsilon)
    return run_request(model, x, request, **common)
