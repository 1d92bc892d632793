"""Recipes: from a method's name and parameters to where its gradients are taken, and what is made
of them.

The parameters' names are those of manifests, notebooks and the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable

from gradattr.attribution.baselines import Black
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.layers.recipes import LAYER_RECIPES, RECTIFIED_RECIPES
from gradattr.attribution.paths.adversarial_paths import AdversarialPaths, StepFrom
from gradattr.attribution.paths.blur_path import BlurPath
from gradattr.attribution.paths.guided_path import GuidedPath
from gradattr.attribution.paths.unlearning import Start, Unlearned
from gradattr.attribution.perturbation.recipes import PERTURBATION_RECIPES
from gradattr.attribution.propagation.recipes import PROPAGATION_RECIPES
from gradattr.attribution.quadrature import RuleName
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sampling import AtInput, NoisyCopies, RandomPaths, StraightPath
from gradattr.attribution.sources import OtherModel, RandomScores, Recipe
from gradattr.attribution.target import TargetName
from gradattr.attribution.transformer.recipes import ATTENTION_RECIPES


def _gradient() -> Recipe:
    return AtInput(), Reduction.MEAN


def _saliency() -> Recipe:
    return AtInput(), Reduction.MAGNITUDE


def _input_x_gradient() -> Recipe:
    return AtInput(), Reduction.TIMES_INPUT


def _smoothgrad(samples: int = 50, sigma: float = 0.1) -> Recipe:
    return NoisyCopies(samples, sigma), Reduction.MEAN


def _smoothgrad_x_input(samples: int = 50, sigma: float = 0.1) -> Recipe:
    return NoisyCopies(samples, sigma), Reduction.TIMES_INPUT


def _squaregrad(samples: int = 50, sigma: float = 0.1) -> Recipe:
    return NoisyCopies(samples, sigma), Reduction.MEAN_SQUARE


def _vargrad(samples: int = 50, sigma: float = 0.1) -> Recipe:
    return NoisyCopies(samples, sigma), Reduction.VARIANCE


def _integrated_gradients(
    steps: int = 50, rule: RuleName = "gauss_legendre", baseline: Start | None = None
) -> Recipe:
    return StraightPath(baseline or Black(), steps, rule), Reduction.TIMES_DIFFERENCE


def _expected_gradients(baseline: Start, samples: int = 25) -> Recipe:
    return RandomPaths(baseline, samples), Reduction.TIMES_DIFFERENCE


def _gradient_shap(baseline: Start, samples: int = 25, stdev: float = 0.0) -> Recipe:
    return RandomPaths(baseline, samples, stdev), Reduction.TIMES_DIFFERENCE


def _uni(
    steps: int = 15,
    rule: RuleName = "right",
    eta: float = 1.0,
    iterations: int = 10,
    eps: float = 0.25,
    mu: float = 0.1,
) -> Recipe:
    start = Unlearned(eta=eta, iterations=iterations, eps=eps, mu=mu)
    return StraightPath(start, steps, rule), Reduction.TIMES_DIFFERENCE


def _blur_ig(max_sigma: float | None = None, steps: int = 100, rule: RuleName = "right") -> Recipe:
    return BlurPath(max_sigma, steps, rule), Reduction.TIMES_DIFFERENCE


def _guided_ig(
    steps: int = 200,
    fraction: float = 0.25,
    max_dist: float = 0.02,
    baseline: Start | None = None,
) -> Recipe:
    path = GuidedPath(baseline or Black(), steps, fraction, max_dist)
    return path, Reduction.MEAN


def _agi(
    iterations: int = 20, classes: int = 20, eps: float = 0.05, step_from: StepFrom = "current"
) -> Recipe:
    paths = AdversarialPaths(iterations, classes, eps, step_from)
    return paths, Reduction.MEAN


def _random() -> Recipe:
    return RandomScores(), Reduction.MEAN


def _linear(linear_model: Evaluator) -> Recipe:
    return OtherModel(linear_model), Reduction.MEAN


#: Every method, by name.
RECIPES: dict[str, Callable[..., Recipe]] = {
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
    **RECTIFIED_RECIPES,
    **LAYER_RECIPES,
    **ATTENTION_RECIPES,
    **PERTURBATION_RECIPES,
    **PROPAGATION_RECIPES,
    "random": _random,
    "linear": _linear,
}

#: Where it is not 'logit_pred'.
TARGETS: dict[str, TargetName] = {"uni": "prob_pred", "agi": "prob_pred"}
