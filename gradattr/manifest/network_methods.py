"""Methods that look into the network: other rules of back-propagation, layers, attention."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradattr.manifest.baselines import Baseline, Positive, SampleBaseline, black
from gradattr.manifest.method_base import MethodBase, Rule


class RectifierMethod(MethodBase):
    """Guided backprop or deconvolution: what flows back through a ReLU is rectified too."""

    name: Literal["guided_backprop", "deconvolution"]


class DeepLiftMethod(MethodBase):
    """DeepLIFT with the rescale rule: differences from a baseline, shared out layer by layer."""

    name: Literal["deep_lift"]
    baseline: Baseline = Field(default_factory=black)


class DeepShapMethod(MethodBase):
    """DeepSHAP: the mean of DeepLIFT over baselines drawn from a pool."""

    name: Literal["deep_shap"]
    samples: Positive = 25
    """Draws per image (two model evaluations each)."""
    baseline: Baseline = Field(default_factory=lambda: SampleBaseline(kind="sample"))


class LrpMethod(MethodBase):
    """Layer-wise relevance propagation."""

    name: Literal["lrp"]
    rule: Literal["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat"] = "epsilon"
    """'epsilon' in every layer, or a composite for convolutional nets: flat in the first layer,
    z-plus or alpha-beta in the convolutions, epsilon in the dense layers."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Keeps denominators from 0, in units of a layer's output."""


class LayerBase(MethodBase):
    """Methods at a layer; their maps are enlarged to the image."""

    layer: str | None = Field(default=None, min_length=1, max_length=256)
    """Name of a module as in the model's state_dict ('layer4.1'). Default: the last one with
    spatial locations."""


class CamMethod(LayerBase):
    """Grad-CAM, Grad-CAM++, or Grad-CAM times guided backprop."""

    name: Literal["grad_cam", "grad_cam_plus_plus", "guided_grad_cam"]


class LayerMethod(LayerBase):
    """A layer's activation, or activation x gradient."""

    name: Literal["layer_activation", "layer_gradient_x_activation"]


class LayerPathMethod(LayerBase):
    """Integrated gradients in a layer's activation, or its conductance along the input's path."""

    name: Literal["layer_integrated_gradients", "layer_conductance"]
    steps: Positive = 50
    """Points on the line (model evaluations per image)."""
    rule: Rule = "gauss_legendre"
    """Quadrature."""
    baseline: Baseline = Field(default_factory=black)


Head = Literal["mean"] | Annotated[int, Field(ge=0)]


class AttentionMethod(MethodBase):
    """Attention of the class token to the patches, as it is or times its gradient."""

    name: Literal["attention", "attention_x_gradient"]
    block: int = -1
    """Which attention module, in the order in which they are called; -1: the last."""
    head: Head = "mean"
    """A head's number, or the mean over heads."""


class RolloutMethod(MethodBase):
    """Attention rollout: the product of all blocks' attention."""

    name: Literal["attention_rollout"]
    residual: bool = True
    """Whether half of each block passes its input on: 0.5 (A + I), rows normalised."""
    head: Head = "mean"
    """A head's number, or the mean over heads."""


NetworkMethod = (
    RectifierMethod
    | DeepLiftMethod
    | DeepShapMethod
    | LrpMethod
    | CamMethod
    | LayerMethod
    | LayerPathMethod
    | AttentionMethod
    | RolloutMethod
)
