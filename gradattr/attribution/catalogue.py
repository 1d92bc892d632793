"""What each method is: formula, source, cost, needs, promises and blind spots.

Reading the catalogue imports neither torch nor any method.
"""

from __future__ import annotations

from gradattr.attribution.catalogue_entry import (
    LABELS,
    NEEDS,
    SATURATED,
    MethodInfo,
    Parameter,
)
from gradattr.attribution.layers.catalogue import LAYER_METHODS, RECTIFIED_METHODS
from gradattr.attribution.paths.catalogue import PATH_METHODS
from gradattr.attribution.perturbation.catalogue import PERTURBATION_METHODS
from gradattr.attribution.propagation.catalogue import PROPAGATION_METHODS
from gradattr.attribution.transformer.catalogue import ATTENTION_METHODS

_AT_INPUT = (
    "1, shared by every method at the input, whatever their targets: one forward, and one backward "
    "per distinct target"
)
_NO_CLAIM = "none claimed"
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
        NEEDS,
        False,
        _NO_CLAIM,
        (SATURATED, "linear models with target 'logit_*': the same map for every image"),
    ),
    MethodInfo(
        "saliency",
        "|g(x)|",
        "Simonyan, Vedaldi, Zisserman 2014, Deep inside convolutional networks",
        1,
        _AT_INPUT,
        NEEDS,
        False,
        _NO_CLAIM,
        (SATURATED, "linear models with target 'logit_*': the same map for every image"),
    ),
    MethodInfo(
        "input_x_gradient",
        "x ⊙ g(x)",
        "Shrikumar et al. 2016, Not just a black box",
        1,
        _AT_INPUT + "; f(0) is one forward pass in all",
        NEEDS,
        True,
        "to first order: gap = Σ map − (f(x) − f(0)); 0 for models that are linear, or piecewise "
        "linear without biases",
        (SATURATED, "coordinates that are 0 (after normalisation: the mean colour) always get 0"),
        contributions=True,
    ),
    MethodInfo(
        "smoothgrad",
        "E g(x + σ(max x − min x) n_k)",
        "Smilkov et al. 2017, SmoothGrad: removing noise by adding noise",
        "samples",
        _SMOOTH_COST,
        NEEDS,
        False,
        _NO_CLAIM,
        (SATURATED, f"{_FLAT_IMAGE}: the plain gradient", "linear models: the plain gradient"),
        _SMOOTH,
    ),
    MethodInfo(
        "smoothgrad_x_input",
        "x ⊙ E g(x + σ(max x − min x) n_k)",
        "Smilkov et al. 2017, multiplied by the input",
        "samples",
        _SMOOTH_COST,
        NEEDS,
        False,
        _NO_CLAIM,
        (SATURATED, "coordinates that are 0 always get 0", f"{_FLAT_IMAGE}: input x gradient"),
        _SMOOTH,
        contributions=True,
    ),
    MethodInfo(
        "squaregrad",
        "E g(x + σ(max x − min x) n_k)²",
        "Hooker et al. 2019, A benchmark for interpretability methods (SmoothGrad-squared)",
        "samples",
        _SMOOTH_COST,
        NEEDS,
        False,
        _NO_CLAIM,
        (SATURATED, f"{_FLAT_IMAGE}: the squared gradient", "the sign is lost"),
        _SMOOTH,
    ),
    MethodInfo(
        "vargrad",
        "E (g_k − E g_k)², g_k = g(x + σ(max x − min x) n_k)",
        "Adebayo et al. 2018, Sanity checks for saliency maps",
        "samples",
        _SMOOTH_COST,
        NEEDS,
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
    *PATH_METHODS,
    *RECTIFIED_METHODS,
    *PROPAGATION_METHODS,
    *LAYER_METHODS,
    *ATTENTION_METHODS,
    *PERTURBATION_METHODS,
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
        ("a linear model trained on the same task", LABELS),
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
