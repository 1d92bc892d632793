"""A method as data: which gradients it needs, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from gradattr.attribution.adversarial_paths import AdversarialPaths, StepFrom
from gradattr.attribution.baselines import Black
from gradattr.attribution.blur_path import BlurPath
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.guided_path import GuidedPath
from gradattr.attribution.quadrature import RuleName
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sampling import (
    AtInput,
    NoisyCopies,
    RandomPaths,
    Sampling,
    StraightPath,
)
from gradattr.attribution.target import TargetName
from gradattr.attribution.unlearning import Start, Unlearned
from gradattr.attribution.walks import Walk


@dataclass(frozen=True)
class RandomScores:
    """No gradient at all: N(0, 1), drawn afresh for each sample."""

    evaluations = 0


@dataclass(frozen=True, eq=False)
class OtherModel:
    """The gradient at x of another model's logit, for the class that the explained model fixes."""

    evaluator: Evaluator
    evaluations = 1


Source = AtInput | Sampling | Walk | RandomScores | OtherModel


@dataclass(frozen=True)
class MethodRequest:
    """One method of a call. Build it with ``method_request``, or freely from a sampling and a
    reduction."""

    id: str
    source: Source
    reduction: Reduction
    target: TargetName = "logit_pred"

    def __post_init__(self) -> None:
        if self.reduction is Reduction.TIMES_DIFFERENCE and not isinstance(
            self.source, StraightPath | RandomPaths | BlurPath | Walk
        ):
            raise ValueError(f"request '{self.id}': x - x' needs a path from a baseline")

    def among(self, classes: int) -> MethodRequest:
        """The request as it is of a model of so many classes, where its cost depends on them."""
        if not isinstance(self.source, Walk):
            return self
        return replace(self, source=self.source.among(classes))


_Recipe = tuple[Source, Reduction]


def _gradient() -> _Recipe:
    return AtInput(), Reduction.MEAN


def _saliency() -> _Recipe:
    return AtInput(), Reduction.MAGNITUDE


def _input_x_gradient() -> _Recipe:
    return AtInput(), Reduction.TIMES_INPUT


def _smoothgrad(samples: int = 50, sigma: float = 0.1) -> _Recipe:
    return NoisyCopies(samples, sigma), Reduction.MEAN


def _smoothgrad_x_input(samples: int = 50, sigma: float = 0.1) -> _Recipe:
    return NoisyCopies(samples, sigma), Reduction.TIMES_INPUT


def _squaregrad(samples: int = 50, sigma: float = 0.1) -> _Recipe:
    return NoisyCopies(samples, sigma), Reduction.MEAN_SQUARE


def _vargrad(samples: int = 50, sigma: float = 0.1) -> _Recipe:
    return NoisyCopies(samples, sigma), Reduction.VARIANCE


def _integrated_gradients(
    steps: int = 50, rule: RuleName = "gauss_legendre", baseline: Start | None = None
) -> _Recipe:
    return StraightPath(baseline or Black(), steps, rule), Reduction.TIMES_DIFFERENCE


def _expected_gradients(baseline: Start, samples: int = 25) -> _Recipe:
    return RandomPaths(baseline, samples), Reduction.TIMES_DIFFERENCE


def _gradient_shap(baseline: Start, samples: int = 25, stdev: float = 0.0) -> _Recipe:
    return RandomPaths(baseline, samples, stdev), Reduction.TIMES_DIFFERENCE


def _uni(
    steps: int = 15,
    rule: RuleName = "right",
    eta: float = 1.0,
    iterations: int = 10,
    eps: float = 0.25,
    mu: float = 0.1,
) -> _Recipe:
    start = Unlearned(eta=eta, iterations=iterations, eps=eps, mu=mu)
    return StraightPath(start, steps, rule), Reduction.TIMES_DIFFERENCE


def _blur_ig(max_sigma: float | None = None, steps: int = 100, rule: RuleName = "right") -> _Recipe:
    return BlurPath(max_sigma, steps, rule), Reduction.TIMES_DIFFERENCE


def _guided_ig(
    steps: int = 200,
    fraction: float = 0.25,
    max_dist: float = 0.02,
    baseline: Start | None = None,
) -> _Recipe:
    path = GuidedPath(baseline or Black(), steps, fraction, max_dist)
    return path, Reduction.TIMES_DIFFERENCE


def _agi(
    iterations: int = 20, classes: int = 20, eps: float = 0.05, step_from: StepFrom = "current"
) -> _Recipe:
    paths = AdversarialPaths(iterations, classes, eps, step_from)
    return paths, Reduction.TIMES_DIFFERENCE


def _random() -> _Recipe:
    return RandomScores(), Reduction.MEAN


def _linear(linear_model: Evaluator) -> _Recipe:
    return OtherModel(linear_model), Reduction.MEAN


_RECIPES: dict[str, Callable[..., _Recipe]] = {
    "gradient": _gradient,
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "smoothgrad": _smoothgrad,
    "smoothgrad_x_input": _smoothgrad_x_input,
    "squaregrad": _squaregrad,
    "vargrad": _vargrad,
    "integrated_gradients": _integrated_gradients,
    "expected_gradients": _expected_gradients,
    "gradient_shap": _gradient_shap,
    "uni": _uni,
    "blur_ig": _blur_ig,
    "guided_ig": _guided_ig,
    "agi": _agi,
    "random": _random,
    "linear": _linear,
}

#: Where it is not 'logit_pred'.
_TARGETS: dict[str, TargetName] = {"uni": "prob_pred", "agi": "prob_pred"}


def method_request(
    name: str, *, id: str | None = None, target: TargetName | None = None, **parameters: Any
) -> MethodRequest:
    """The request for a method of the catalogue, by name and parameters.

    ``id`` names the result, by default ``name``. ``target`` is by default what the method's authors
    differentiate: 'prob_pred' of uni and agi, else 'logit_pred'. Parameters and their defaults:

    - gradient, saliency, input_x_gradient, random: none
    - smoothgrad, smoothgrad_x_input, squaregrad, vargrad: samples=50, sigma=0.1 (share of the
      image's range)
    - integrated_gradients: steps=50, rule='gauss_legendre', baseline=Black()
    - expected_gradients: baseline, samples=25
    - gradient_shap: baseline, samples=25, stdev=0.0 (units of the model's input)
    - uni: steps=15, rule='right', eta=1.0, iterations=10, eps=0.25, mu=0.1
    - blur_ig: max_sigma=None (pixels; 50 at 224), steps=100, rule='right'
    - guided_ig: steps=200, fraction=0.25, max_dist=0.02, baseline=Black()
    - agi: iterations=20, classes=20, eps=0.05 (pixels of range 1), step_from='current'
    - linear: linear_model (an Evaluator)

    Raises ValueError for an unknown name, a parameter that the method does not have or that is
    missing, and a value out of range.
    """
    if name not in _RECIPES:
        raise ValueError(f"unknown method '{name}': expected one of {', '.join(_RECIPES)}")
    recipe = _RECIPES[name]
    try:
        signature(recipe).bind(**parameters)
    except TypeError as error:
        expected = ", ".join(signature(recipe).parameters) or "none"
        raise ValueError(f"method '{name}': {error} (parameters: {expected})") from None
    source, reduction = recipe(**parameters)
    if target is None:
        target = _TARGETS.get(name, "logit_pred")
    return MethodRequest(id or name, source, reduction, target)
