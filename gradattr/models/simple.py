"""The models small enough to be written as a list of layers: linear, MLP, light CNN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gradattr.errors import ModelError

Shape = tuple[int, int, int]
Output = Literal["logits", "margin"]


class MarginLogits(nn.Module):
    """One output f (n, 1) -> the logits (-f/2, f/2) (n, 2): cross-entropy is then the logistic
    loss log(1 + exp(-y f)) with y = -1 for class 0 and +1 for class 1."""

    halves: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("halves", torch.tensor([-0.5, 0.5]), persistent=False)

    def forward(self, f: Tensor) -> Tensor:
        return f * self.halves


def linear(shape: Shape, num_classes: int, output: Output = "logits") -> nn.Sequential:
    """One linear layer on the flattened image (n, channels, height, width) -> (n, classes).

    ``output`` 'margin': the layer has one output. Raises ModelError then unless there are two
    classes.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    return nn.Sequential(_with_output(layers, _size(shape), num_classes, output))


def mlp(
    shape: Shape, num_classes: int, hidden: Sequence[int], output: Output = "logits"
) -> nn.Sequential:
    """Fully connected ReLU network on the flattened image. ``output`` as in ``linear``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = _size(shape)
    for number, width in enumerate(hidden, start=1):
        layers[f"hidden{number}"] = nn.Linear(inputs, width)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = width
    return nn.Sequential(_with_output(layers, inputs, num_classes, output))


def cnn(shape: Shape, num_classes: int, width: int) -> nn.Sequential:
    """Three (3x3 convolution, ReLU, 2x2 max-pool) blocks of width, 2 width and 4 width channels,
    then a hidden linear layer of 4 width units and the output.

    Raises ModelError for images smaller than 8x8: three poolings leave nothing of them.
    """
    channels, height, image_width = shape
    if min(height, image_width) < 8:
        raise ModelError(
            f"model.arch: 'cnn' halves the image three times and needs at least 8x8 pixels, "
            f"the data has {height}x{image_width}; resize it or use 'mlp'"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, outputs in enumerate((width, 2 * width, 4 * width), start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels, outputs, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        channels = outputs
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(channels * (height // 8) * (image_width // 8), 4 * width)
    layers["relu4"] = nn.ReLU()
    layers["output"] = nn.Linear(4 * width, num_classes)
    return nn.Sequential(layers)


def _with_output(
    layers: OrderedDict[str, nn.Module], inputs: int, num_classes: int, output: Output
) -> OrderedDict[str, nn.Module]:
    if output == "logits":
        layers["output"] = nn.Linear(inputs, num_classes)
        return layers
    if num_classes != 2:
        raise ModelError(
            f"model.output: 'margin' is for two classes, the data has {num_classes}; use 'logits'"
        )
    layers["output"] = nn.Linear(inputs, 1)
    layers["margin"] = MarginLogits()
    return layers


def _size(shape: Shape) -> int:
    channels, height, width = shape
    return channels * height * width
