"""Which layers have a rule for their per-example gradients."""

from __future__ import annotations

from torch import nn

from gradattr.influence.conv_layers import Conv2dLayer
from gradattr.influence.layers import Layer, LinearLayer
from gradattr.influence.norm_layers import NormLayer

#: Exactly these types: a subclass may do something else in its forward.
LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: LinearLayer,
    nn.Conv2d: Conv2dLayer,
    nn.BatchNorm1d: NormLayer,
    nn.BatchNorm2d: NormLayer,
    nn.LayerNorm: NormLayer,
    nn.GroupNorm: NormLayer,
}
