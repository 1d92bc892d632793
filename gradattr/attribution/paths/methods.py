"""More methods for a notebook: those whose path depends on the model or on scale.

Their arguments are as in ``methods``.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from gradattr.attribution.baselines import Black, Normalization, as_baseline
from gradattr.attribution.methods import Common, Model, run_request
from gradattr.attribution.paths.adversarial_paths import StepFrom
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.quadrature import RuleName
from gradattr.attribution.requests import method_request
from gradattr.attribution.result import Attribution
from gradattr.attribution.target import TargetName


def uni(
    model: Model,
    x: Tensor,
    target: TargetName = "prob_pred",
    *,
    steps: int = 15,
    rule: RuleName = "right",
    eta: float = 1.0,
    iterations: int = 10,
    eps: float = 0.25,
    mu: float = 0.1,
    **common: Unpack[Common],
) -> Attribution:
    """Integrated gradients of a probability, from the baseline that unlearning finds (UNI).

    x' is the point at distance ``eps`` where ``iterations`` steps towards the answer of a model end
    that has unlearned x by ``eta``; see ``Unlearned``. ``baseline_confidence`` is what is left of
    the probability there, ``path_spearman`` whether it only grows from there to x.
    """
    request = method_request(
        "uni",
        target=target,
        steps=steps,
        rule=rule,
        eta=eta,
        iterations=iterations,
        eps=eps,
        mu=mu,
    )
    return run_request(model, x, request, **common)


def blur_ig(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    max_sigma: float | None = None,
    steps: int = 100,
    rule: RuleName = "right",
    **common: Unpack[Common],
) -> Attribution:
    """Gradients integrated from a blurred image to the image, through scale space (Xu et al. 2020).

    ``max_sigma``: pixels; None is 50 for images of 224 pixels, in proportion for others. Outside
    of the image is 0. Gap: sum of map - (f(x) - f(blurred x)).
    """
    request = method_request("blur_ig", target=target, max_sigma=max_sigma, steps=steps, rule=rule)
    return run_request(model, x, request, **common)


def guided_ig(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    steps: int = 200,
    fraction: float = 0.25,
    max_dist: float = 0.02,
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Integrated gradients on a path along the smallest gradients (Kapishnikov et al. 2021).

    In each step the ``fraction`` of the coordinates with the smallest |g| moves towards x, within
    ``max_dist`` of the straight line from x'. ``baseline`` as of ``integrated_gradients``. Gap:
    sum of map - (f(x) - f(x')).
    """
    request = method_request(
        "guided_ig",
        target=target,
        steps=steps,
        fraction=fraction,
        max_dist=max_dist,
        baseline=Black() if baseline is None else as_baseline(baseline),
    )
    return run_request(model, x, request, normalization, **common)


def agi(
    model: Model,
    x: Tensor,
    target: TargetName = "prob_pred",
    *,
    iterations: int = 20,
    classes: int = 20,
    eps: float = 0.05,
    step_from: StepFrom = "current",
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Gradients integrated along adversarial paths to other classes (Pan et al. 2021).

    ``eps`` is the length of a step in pixels of range 1, ``normalization`` says what they are.
    ``step_from`` 'original' is the published code. The mean over classes, where that code has the
    sum. Gap: sum of map - (f(x) - mean of f at the ends), none for 'original'.
    """
    request = method_request(
        "agi",
        target=target,
        iterations=iterations,
        classes=classes,
        eps=eps,
        step_from=step_from,
    )
    return run_request(model, x, request, normalization, **common)
