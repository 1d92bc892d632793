"""More methods for a notebook: those that change how ReLUs differentiate, or look at a layer.

``layer`` is the name of a module, as in ``model.named_modules()``, that returns a feature map or a
square grid of tokens, and is called once; None is the last one with gradients at its locations
(``find_spatial_layer``). MethodError says why a model does not fit. Other arguments are as in
``methods``.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from gradattr.attribution.baselines import Black, Normalization, as_baseline
from gradattr.attribution.methods import Common, Model, run_request
from gradattr.attribution.paths.unlearning import Start
from gradattr.attribution.quadrature import RuleName
from gradattr.attribution.requests import method_request
from gradattr.attribution.result import Attribution
from gradattr.attribution.target import TargetName


def guided_backprop(
    model: Model, x: Tensor, target: TargetName = "logit_pred", **common: Unpack[Common]
) -> Attribution:
    """The gradient, where ReLUs hand on only positive gradients (Springenberg et al. 2015).

    Where a ReLU's input is positive, too. ReLUs may be modules or functions, in place or not;
    models with other activation functions are refused.
    """
    return run_request(model, x, method_request("guided_backprop", target=target), **common)


def deconvolution(
    model: Model, x: Tensor, target: TargetName = "logit_pred", **common: Unpack[Common]
) -> Attribution:
    """The gradient, where ReLUs hand on only positive gradients (Zeiler, Fergus 2014).

    Whatever the ReLU's input was. Models as for ``guided_backprop``.
    """
    return run_request(model, x, method_request("deconvolution", target=target), **common)


def grad_cam(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """max(0, sum_k w_k A_k) of a layer A, w_k its mean gradient (Selvaraju et al. 2017).

    Maps are (n, 1, H, W), upsampled bilinearly. A map that is 0 everywhere has the status
    'degenerate'.
    """
    request = method_request("grad_cam", target=target, layer=layer)
    return run_request(model, x, request, **common)


def grad_cam_plus_plus(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Grad-CAM with weights by location, of exp(target) (Chattopadhay et al. 2018).

    w_k = sum_i max(0, g_ki) / (2 + g_ki sum_j A_kj), g the gradient in A; maps as of ``grad_cam``,
    without their factor exp(target).
    """
    request = method_request("grad_cam_plus_plus", target=target, layer=layer)
    return run_request(model, x, request, **common)


def guided_grad_cam(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Guided backprop times Grad-CAM, (n, c, H, W) (Selvaraju et al. 2017)."""
    request = method_request("guided_grad_cam", target=target, layer=layer)
    return run_request(model, x, request, **common)


def layer_activation(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """Mean over channels of a layer's output, upsampled to (n, 1, H, W), for every target."""
    request = method_request("layer_activation", target=target, layer=layer)
    return run_request(model, x, request, **common)


def layer_gradient_x_activation(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """sum_k A_k dS/dA_k of a layer A, upsampled to (n, 1, H, W)."""
    request = method_request("layer_gradient_x_activation", target=target, layer=layer)
    return run_request(model, x, request, **common)


def layer_integrated_gradients(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    steps: int = 50,
    rule: RuleName = "gauss_legendre",
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """(A(x) - A(x')) * integral of dS/dA from A(x') to A(x), summed over channels.

    (n, 1, H, W), with the sum that the locations of the layer have. ``baseline`` as of
    ``integrated_gradients``. Gap: sum of map - (f(x) - f(x with A(x') in the layer's place)).
    """
    request = method_request(
        "layer_integrated_gradients",
        target=target,
        layer=layer,
        steps=steps,
        rule=rule,
        baseline=Black() if baseline is None else as_baseline(baseline),
    )
    return run_request(model, x, request, normalization, **common)


def layer_conductance(
    model: Model,
    x: Tensor,
    target: TargetName = "logit_pred",
    *,
    layer: str | None = None,
    steps: int = 50,
    rule: RuleName = "gauss_legendre",
    baseline: Start | Tensor | float | None = None,
    normalization: Normalization | None = None,
    **common: Unpack[Common],
) -> Attribution:
    """sum of dS/dA * (change of A) along the line from x' to x (Dhamdhere et al. 2018).

    (n, 1, H, W), with the sum that the locations of the layer have. ``baseline`` as of
    ``integrated_gradients``. Gap: sum of map - (f(x) - f(x')), part of it what goes past the layer.
    """
    request = method_request(
        "layer_conductance",
        target=target,
        layer=layer,
        steps=steps,
        rule=rule,
        baseline=Black() if baseline is None else as_baseline(baseline),
    )
    return run_request(model, x, request, normalization, **common)
