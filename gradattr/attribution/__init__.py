"""Gradient attribution, mathematics only: tensors in, tensors out. Works alone in a notebook.

Names are imported when first used, so that reading the catalogue does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradattr.attribution.baselines import (
        Baseline,
        Black,
        Blur,
        Constant,
        Mean,
        Noise,
        Normalization,
        Sample,
        Uniform,
    )
    from gradattr.attribution.catalogue import method_info
    from gradattr.attribution.catalogue_entry import MethodInfo, Parameter
    from gradattr.attribution.evaluator import Choose, Evaluator, Explained, PlainEvaluator
    from gradattr.attribution.layers.methods import (
        deconvolution,
        grad_cam,
        grad_cam_plus_plus,
        guided_backprop,
        guided_grad_cam,
        layer_activation,
        layer_conductance,
        layer_gradient_x_activation,
        layer_integrated_gradients,
    )
    from gradattr.attribution.methods import (
        expected_gradients,
        gradient,
        gradient_shap,
        input_x_gradient,
        integrated_gradients,
        linear,
        random_attribution,
        saliency,
        smoothgrad,
        smoothgrad_x_input,
        squaregrad,
        vargrad,
    )
    from gradattr.attribution.passes import attribute
    from gradattr.attribution.paths.methods import agi, blur_ig, guided_ig, uni
    from gradattr.attribution.paths.unlearning import Unlearned
    from gradattr.attribution.perturbation.methods import kernel_shap, lime, occlusion, rise
    from gradattr.attribution.propagation.methods import deep_lift, deep_shap, lrp
    from gradattr.attribution.requests import MethodRequest, method_request
    from gradattr.attribution.result import Attribution, concatenate
    from gradattr.attribution.sampling import NoisyCopies
    from gradattr.attribution.transformer.methods import (
        attention,
        attention_rollout,
        attention_x_gradient,
    )
    from gradattr.attribution.tuning.tuned import tune

_HOMES = {
    "transformer.methods": ("attention", "attention_rollout", "attention_x_gradient"),
    "baselines": (
        "Baseline",
        "Black",
        "Blur",
        "Constant",
        "Mean",
        "Noise",
        "Normalization",
        "Sample",
        "Uniform",
    ),
    "catalogue": ("method_info",),
    "evaluator": ("Choose", "Evaluator", "Explained", "PlainEvaluator"),
    "catalogue_entry": ("MethodInfo", "Parameter"),
    "layers.methods": (
        "deconvolution",
        "grad_cam",
        "grad_cam_plus_plus",
        "guided_backprop",
        "guided_grad_cam",
        "layer_activation",
        "layer_conductance",
        "layer_gradient_x_activation",
        "layer_integrated_gradients",
    ),
    "methods": (
        "expected_gradients",
        "gradient",
        "gradient_shap",
        "input_x_gradient",
        "integrated_gradients",
        "linear",
        "random_attribution",
        "saliency",
        "smoothgrad",
        "smoothgrad_x_input",
        "squaregrad",
        "vargrad",
    ),
    "passes": ("attribute",),
    "paths.methods": ("agi", "blur_ig", "guided_ig", "uni"),
    "perturbation.methods": ("kernel_shap", "lime", "occlusion", "rise"),
    "propagation.methods": ("deep_lift", "deep_shap", "lrp"),
    "requests": ("MethodRequest", "method_request"),
    "result": ("Attribution", "concatenate"),
    "sampling": ("NoisyCopies",),
    "tuning.tuned": ("tune",),
    "paths.unlearning": ("Unlearned",),
}
#: Not among them: ``catalogue.catalogue``, whose name is its module's.
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Attribution",
    "Baseline",
    "Black",
    "Blur",
    "Choose",
    "Constant",
    "Evaluator",
    "Explained",
    "Mean",
    "MethodInfo",
    "MethodRequest",
    "Noise",
    "NoisyCopies",
    "Normalization",
    "Parameter",
    "PlainEvaluator",
    "Sample",
    "Uniform",
    "Unlearned",
    "agi",
    "attention",
    "attention_rollout",
    "attention_x_gradient",
    "attribute",
    "blur_ig",
    "concatenate",
    "deconvolution",
    "deep_lift",
    "deep_shap",
    "expected_gradients",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_shap",
    "guided_backprop",
    "guided_grad_cam",
    "guided_ig",
    "input_x_gradient",
    "integrated_gradients",
    "kernel_shap",
    "layer_activation",
    "layer_conductance",
    "layer_gradient_x_activation",
    "layer_integrated_gradients",
    "lime",
    "linear",
    "lrp",
    "method_info",
    "method_request",
    "occlusion",
    "random_attribution",
    "rise",
    "saliency",
    "smoothgrad",
    "smoothgrad_x_input",
    "squaregrad",
    "tune",
    "uni",
    "vargrad",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
