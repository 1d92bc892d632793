"""Catalogue entries of the methods that propagate by rules of their own."""

from __future__ import annotations

from gradattr.attribution.catalogue_entry import LABELS, MethodInfo, Parameter

_RULES = (
    "every operation between input and logits known: layers, sums, activation functions, averages, "
    "max-pooling, batch norm in eval mode; custom functions and compiled parts are refused"
)
_MANY = (
    "LayerNorm, GroupNorm, softmax and attention inside the network (ConvNeXt, ViT, Swin): refused"
)
_BLIND = "coordinates that equal the baseline's get 0: a black baseline is blind to black"

PROPAGATION_METHODS = (
    MethodInfo(
        "deep_lift",
        "(x − x') ⊙ m, m the product of the layers' (h(a) − h(a')) / (a − a')",
        "Shrikumar, Greenside, Kundaje 2017, Learning important features through propagating "
        "activation differences (rescale rule)",
        1,
        "forward and backward at x; and a forward pass at x', once for a block of images if x' is "
        "the same for all, else one each (2)",
        (_RULES, LABELS),
        True,
        "gap = Σ map − (f(x) − f(x')): rounding, for every target",
        (_BLIND, _MANY),
        (Parameter("baseline", "black", "also mean, blur, noise, uniform, sample, uni"),),
        contributions=True,
    ),
    MethodInfo(
        "deep_shap",
        "E (x − x'_k) ⊙ m_k, m_k DeepLIFT's multipliers from x'_k",
        "Lundberg, Lee 2017, A unified approach to interpreting model predictions",
        "2 * samples",
        "2 per draw",
        (_RULES, LABELS),
        True,
        "gap = Σ map − (f(x) − E f(x'_k)), the mean over the draws: rounding, for every target",
        ("few samples: mostly chance", _MANY),
        (
            Parameter("samples", 25, "draws per image"),
            Parameter("baseline", "sample", "what x'_k is drawn from"),
        ),
        contributions=True,
    ),
    MethodInfo(
        "lrp",
        "R_i = a_i Σ_j w_ij R_j / (z_j + ε sign z_j), from layer to layer; composites: z⁺ or α2β1 "
        "in convolutions, flat in the first layer",
        "Bach et al. 2015, On pixel-wise explanations for non-linear classifier decisions by "
        "layer-wise relevance propagation",
        1,
        "1; composites evaluate convolutions once or twice more on the way back",
        (_RULES, "activation functions that are 0 at 0", LABELS),
        True,
        "gap = Σ map − Σ_j z_j ∂f/∂z_j over the logits z (the logit, if that is f): what biases "
        "and ε absorb; 0 without biases as ε → 0",
        (
            "rule 'epsilon' in a network of ReLUs, small ε: nearly input x gradient",
            "gates (sigmoid, squeeze and excitation): refused, there is no rule for a product",
            _MANY,
        ),
        (
            Parameter("rule", "epsilon", "also epsilon_plus_flat, epsilon_alpha2_beta1_flat"),
            Parameter("epsilon", 1e-6, "ε, in units of a layer's output"),
        ),
        contributions=True,
    ),
)
