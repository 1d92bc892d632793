"""What each method is: formula, source, cost, needs, promises and blind spots.

Reading the catalogue imports neither torch nor any method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method; ``default`` None: it has to be given, or the text says what."""

    name: str
    default: int | float | str | None
    meaning: str


@dataclass(frozen=True)
class MethodInfo:
    """One entry of the catalogue.

    In formulas: x input, f the target scalar, g = ∇f, x' baseline, ⊙ elementwise product,
    n_k ~ N(0, I), E mean over the steps k.
    """

    name: str
    formula: str
    source: str
    cost: int | str
    """Forward-and-backward passes per image: a number, or a sum of products of numbers and
    parameters, such as 'steps + 2'."""
    cost_text: str
    needs: tuple[str, ...]
    completeness: bool
    """Whether the map claims to add up to a difference of scores, so that the gap is reported."""
    completeness_text: str
    degenerates: tuple[str, ...]
    """Models and inputs on which the map says less than it seems to."""
    parameters: tuple[Parameter, ...] = ()

    def evaluations(self, parameters: Mapping[str, object] | None = None) -> int:
        """Forward-and-backward passes per image with these parameters, else the defaults.

        Raises ValueError if the parameter that sets the cost is not a number.
        """
        if isinstance(self.cost, int):
            return self.cost
        defaults = {parameter.name: parameter.default for parameter in self.parameters}
        given = defaults | dict(parameters or {})
        return sum(
            prod(self._factor(word, given) for word in term.split(" * "))
            for term in self.cost.split(" + ")
        )

    def _factor(self, word: str, given: Mapping[str, object]) -> int:
        value = int(word) if word.isdigit() else given[word]
        if not isinstance(value, int):
            raise ValueError(f"method '{self.name}': {word} is {value!r}, a number expected")
        return value


_DIFFERENTIABLE = "differentiable from logits to input"
_LABELS = "labels, for the targets '*_true'"
_NEEDS = (_DIFFERENTIABLE, _LABELS)
_AT_INPUT = (
    "1, shared by every method at the input, whatever their targets: one forward, and one backward "
    "per distinct target"
)
_NO_CLAIM = "none claimed"
_SATURATED = "target 'prob_*' or 'loss_*' of a certain model (p = 1): gradients vanish"
_FLAT_IMAGE = "images of one colour have range 0, so there is no noise"
_SMOOTH = (
    Parameter("samples", 50, "noisy copies per image"),
    Parameter("sigma", 0.1, "standard deviation of the noise, share of the image's range"),
)
_SMOOTH_COST = "samples; one pass serves all four methods of this family with equal parameters"

_CATALOGUE = (
    MethodInfo(
        "gradient",
        "g(x)",
        "Baehrens et al. 2010, How to explain individual classification decisions",
        1,
        _AT_INPUT,
        _NEEDS,
        False,
        _NO_CLAIM,
        (_SATURATED, "linear models with target 'logit_*': the same map for every image"),
    ),
    MethodInfo(
        "saliency",
        "|g(x)|",
        "Simonyan, Vedaldi, Zisserman 2014, Deep inside convolutional networks",
        1,
        _AT_INPUT,
        _NEEDS,
        False,
        _NO_CLAIM,
        (_SATURATED, "linear models with target 'logit_*': the same map for every image"),
    ),
    MethodInfo(
        "input_x_gradient",
        "x ⊙ g(x)",
        "Shrikumar et al. 2016, Not just a black box",
        1,
        _AT_INPUT + "; f(0) is one forward pass in all",
        _NEEDS,
        True,
        "to first order: gap = Σ map − (f(x) − f(0)); 0 for models that are linear, or piecewise "
        "linear without biases",
        (_SATURATED, "coordinates that are 0 (after normalisation: the mean colour) always get 0"),
    ),
    MethodInfo(
        "smoothgrad",
        "E g(x + σ(max x − min x) n_k)",
        "Smilkov et al. 2017, SmoothGrad: removing noise by adding noise",
        "samples",
        _SMOOTH_COST,
        _NEEDS,
        False,
        _NO_CLAIM,
        (_SATURATED, f"{_FLAT_IMAGE}: the plain gradient", "linear models: the plain gradient"),
        _SMOOTH,
    ),
    MethodInfo(
        "smoothgrad_x_input",
        "x ⊙ E g(x + σ(max x − min x) n_k)",
        "Smilkov et al. 2017, multiplied by the input",
        "samples",
        _SMOOTH_COST,
        _NEEDS,
        False,
        _NO_CLAIM,
        (_SATURATED, "coordinates that are 0 always get 0", f"{_FLAT_IMAGE}: input x gradient"),
        _SMOOTH,
    ),
    MethodInfo(
        "squaregrad",
        "E g(x + σ(max x − min x) n_k)²",
        "Hooker et al. 2019, A benchmark for interpretability methods (SmoothGrad-squared)",
        "samples",
        _SMOOTH_COST,
        _NEEDS,
        False,
        _NO_CLAIM,
        (_SATURATED, f"{_FLAT_IMAGE}: the squared gradient", "the sign is lost"),
        _SMOOTH,
    ),
    MethodInfo(
        "vargrad",
        "E (g_k − E g_k)², g_k = g(x + σ(max x − min x) n_k)",
        "Adebayo et al. 2018, Sanity checks for saliency maps",
        "samples",
        _SMOOTH_COST,
        _NEEDS,
        False,
        _NO_CLAIM,
        (
            "linear models with target 'logit_*': 0 everywhere",
            f"{_FLAT_IMAGE}: 0 everywhere",
            "one sample: 0 everywhere",
            "the sign is lost",
        ),
        _SMOOTH,
    ),
    MethodInfo(
        "integrated_gradients",
        "(x − x') ⊙ Σ w_k g(x' + α_k (x − x'))",
        "Sundararajan, Taly, Yan 2017, Axiomatic attribution for deep networks",
        "steps",
        "steps, and a forward pass at the baseline (one in all if it is the same for every image)",
        _NEEDS,
        True,
        "gap = Σ map − (f(x) − f(x')); the error of the quadrature",
        ("coordinates that equal the baseline's get 0: a black baseline is blind to black",),
        (
            Parameter("steps", 50, "points on the path"),
            Parameter(
                "rule", "gauss_legendre", "quadrature: also right, left, trapezoid, midpoint"
            ),
            Parameter("baseline", "black", "also mean, blur, noise, uniform, sample, uni"),
        ),
    ),
    MethodInfo(
        "expected_gradients",
        "E (x − x'_k) ⊙ g(x'_k + a_k (x − x'_k)), a_k ~ U(0, 1)",
        "Erion et al. 2021, Improving performance of deep learning models with axiomatic "
        "attribution priors",
        "samples",
        "samples, and a forward pass per image of the pool in all (per draw, for the baselines "
        "noise and uniform)",
        _NEEDS,
        True,
        "in expectation: gap = Σ map − (f(x) − E f(x'))",
        ("few samples: mostly chance",),
        (
            Parameter("samples", 25, "draws per image"),
            Parameter("baseline", "sample", "what x'_k is drawn from"),
        ),
    ),
    MethodInfo(
        "gradient_shap",
        "E (x_k − x'_k) ⊙ g(x'_k + a_k (x_k − x'_k)), x_k = x + s n_k, a_k ~ U(0, 1)",
        "Lundberg, Lee 2017, A unified approach to interpreting model predictions (as in Captum)",
        "samples",
        "samples, and a forward pass per image of the pool in all (per draw, for the baselines "
        "noise and uniform)",
        _NEEDS,
        True,
        "in expectation and without noise: gap = Σ map − (f(x) − E f(x'))",
        ("few samples: mostly chance", "stdev 0: the same as expected gradients"),
        (
            Parameter("samples", 25, "draws per image"),
            Parameter("stdev", 0.0, "s: noise on the image, units of the model's input"),
            Parameter("baseline", "sample", "what x'_k is drawn from"),
        ),
    ),
    MethodInfo(
        "uni",
        "(x − x') ⊙ Σ w_k g(x' + α_k (x − x')), x' near x, where p is as after unlearning x",
        "Unlearning-based neural interpretations (UNI), Algorithm 1",
        "steps + iterations + 2",
        "a gradient in the parameters, an answer of the unlearned model, iterations, steps; and a "
        "forward pass at the baseline",
        (_DIFFERENTIABLE, "parameters that it is differentiable in"),
        True,
        "gap = Σ map − (f(x) − f(x')), f a probability; the error of the quadrature",
        (
            "a model whose loss has no gradient (p = 1 to the last digit): nothing is unlearned, "
            "x' = x, status 'degenerate'",
            "target 'logit_*': not the published method",
        ),
        (
            Parameter("steps", 15, "points on the path"),
            Parameter("rule", "right", "quadrature, as of integrated_gradients"),
            Parameter("eta", 1.0, "length of the step of ascent on the loss, in parameters"),
            Parameter("iterations", 10, "steps from x to x'"),
            Parameter("eps", 0.25, "distance of x' from x, units of the model's input"),
            Parameter("mu", 0.1, "length of such a step, in gradients"),
        ),
    ),
    MethodInfo(
        "random",
        "N(0, I)",
        "Shah, Jain, Netrapalli 2021, Do input gradients highlight discriminative features?",
        0,
        "0",
        (),
        False,
        _NO_CLAIM,
        ("a control: every other method must beat it",),
    ),
    MethodInfo(
        "linear",
        "g of a linear model's logit, for the class that is explained",
        "Shah, Jain, Netrapalli 2021, Do input gradients highlight discriminative features?",
        1,
        "1, of the linear model",
        ("a linear model trained on the same task", _LABELS),
        False,
        _NO_CLAIM,
        ("a control: the same map for every image of a class",),
    ),
)


def catalogue() -> tuple[MethodInfo, ...]:
    """Every method, in the order in which it is best explained."""
    return _CATALOGUE


def method_info(name: str) -> MethodInfo:
    """The entry called ``name``; ValueError if there is none."""
    for info in _CATALOGUE:
        if info.name == name:
            return info
    known = ", ".join(info.name for info in _CATALOGUE)
    raise ValueError(f"unknown method '{name}': expected one of {known}")
