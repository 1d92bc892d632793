"""Catalogue entries of the methods that change how ReLUs differentiate, and of those that look at
a layer."""

from __future__ import annotations

from gradattr.attribution.catalogue_entry import (
    DIFFERENTIABLE,
    LABELS,
    NEEDS,
    SATURATED,
    MethodInfo,
    Parameter,
)

_NO_CLAIM = "none claimed"
_RELUS = (
    "ReLUs (modules, functions, in place, clamp from 0, ReLU6), and no other activation functions"
)
_RECTIFIED = (
    "GELU, SiLU, Hardswish, ELU, tanh, ... : refused, their own derivative would be left in place",
    "gates (sigmoid, softmax), max-pooling, products and normalisations keep their derivative",
)
_LOCATIONS = (
    "a layer with locations, called once: a feature map, or a square grid of tokens; by default "
    "the last one with gradients at its locations"
)
_LAYER = Parameter("layer", None, "name of the module; None: found by itself")
_FOUND = "; and, once per model, a forward and a backward pass to look for the layer"
_ONE = "a forward and a backward pass" + _FOUND
_ALL_RECTIFIED = "no location with evidence for the class: 0 everywhere, status 'degenerate'"
_COARSE = "late layers are coarse: a few values, upsampled"
_PATH = (
    _LAYER,
    Parameter("steps", 50, "points on the path"),
    Parameter("rule", "gauss_legendre", "quadrature, as of integrated_gradients"),
    Parameter("baseline", "black", "also mean, blur, noise, uniform, sample, uni"),
)
_TOKENS = "vision transformers: the class token's share is in no pixel, the gap has it"

RECTIFIED_METHODS = (
    MethodInfo(
        "guided_backprop",
        "g(x), where a ReLU hands on g [g > 0] [x > 0]",
        "Springenberg et al. 2015, Striving for simplicity",
        1,
        "1: a forward and a backward pass",
        (DIFFERENTIABLE, _RELUS, LABELS),
        False,
        _NO_CLAIM,
        (
            *_RECTIFIED,
            "close to a filter of the image: much of the map is the same for all targets",
        ),
    ),
    MethodInfo(
        "deconvolution",
        "g(x), where a ReLU hands on g [g > 0]",
        "Zeiler, Fergus 2014, Visualizing and understanding convolutional networks",
        1,
        "1: a forward and a backward pass",
        (DIFFERENTIABLE, _RELUS, LABELS),
        False,
        _NO_CLAIM,
        (*_RECTIFIED, "without max-pooling the image hardly matters, only the target does"),
    ),
)

LAYER_METHODS = (
    MethodInfo(
        "grad_cam",
        "max(0, Σ_k w_k A_k) upsampled, w_k mean over locations of ∂f/∂A_k",
        "Selvaraju et al. 2017, Grad-CAM: visual explanations from deep networks",
        1,
        _ONE,
        (*NEEDS, _LOCATIONS),
        False,
        _NO_CLAIM,
        (_ALL_RECTIFIED, _COARSE, SATURATED),
        (_LAYER,),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "grad_cam_plus_plus",
        "max(0, Σ_k w_k A_k) upsampled, w_k = Σ_i max(0, g_ki) / (2 + g_ki Σ_j A_kj), g = ∂f/∂A; "
        "the factor exp(f) of the map is left out",
        "Chattopadhay et al. 2018, Grad-CAM++",
        1,
        _ONE,
        (*NEEDS, _LOCATIONS),
        False,
        _NO_CLAIM,
        (_ALL_RECTIFIED, "layers with negative activations: weights near poles", _COARSE),
        (_LAYER,),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "guided_grad_cam",
        "guided backprop ⊙ Grad-CAM",
        "Selvaraju et al. 2017, Grad-CAM: visual explanations from deep networks",
        2,
        "2: one of each" + _FOUND,
        (DIFFERENTIABLE, _RELUS, LABELS, _LOCATIONS),
        False,
        _NO_CLAIM,
        (*_RECTIFIED, _ALL_RECTIFIED),
        (_LAYER,),
    ),
    MethodInfo(
        "layer_activation",
        "mean over channels of A, upsampled",
        "what the layer sees; as in Captum",
        1,
        "a forward pass" + _FOUND,
        (_LOCATIONS,),
        False,
        _NO_CLAIM,
        ("the same map for every target and class", _COARSE),
        (_LAYER,),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "layer_gradient_x_activation",
        "Σ_k A_k ∂f/∂A_k, upsampled",
        "input x gradient at a layer; as in Captum",
        1,
        _ONE,
        (*NEEDS, _LOCATIONS),
        False,
        _NO_CLAIM,
        (_COARSE, SATURATED),
        (_LAYER,),
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "layer_integrated_gradients",
        "Σ_k (A(x) − A(x'))_k Σ_s w_s ∂f/∂A_k at A(x') + α_s (A(x) − A(x')), spread over pixels",
        "integrated gradients at a layer; as in Captum",
        "steps + 3",
        "steps, the layer at x and at x', the score with A(x') in its place" + _FOUND,
        (*NEEDS, _LOCATIONS),
        True,
        "gap = Σ map − (f(x) − f(x with A(x') in the layer's place)); the error of the quadrature",
        (_COARSE, _TOKENS),
        _PATH,
        per_pixel=True,
        contributions=True,
    ),
    MethodInfo(
        "layer_conductance",
        "Σ_k Σ_s ∂f/∂A_k(x_s) (A_k(z_s) − A_k(z_s−1)) along x' to x, spread over pixels",
        "Dhamdhere, Sundararajan, Yan 2018, How important is a neuron?",
        "2 * steps + 1",
        "steps, and steps + 1 forward passes between them (one in all by the rules 'left' and "
        "'right')" + _FOUND,
        (*NEEDS, _LOCATIONS),
        True,
        "gap = Σ map − (f(x) − f(x')): the error of the sum, and what goes past the layer",
        (_COARSE, _TOKENS, "a layer with a shortcut around it: not complete"),
        _PATH,
        per_pixel=True,
        contributions=True,
    ),
)
