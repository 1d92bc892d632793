"""From attention between tokens to maps of images.

Shapes: n images of H x W pixels, t tokens, gh x gw patches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.layers.spatial_layers import upsampled
from gradattr.errors import MethodError


class Tokens(NamedTuple):
    """What the tokens of a sequence are: patches row by row, perhaps behind a class token."""

    class_token: bool
    height: int
    width: int

    def maps(self, attention: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, t, t), row i what query i takes from each token -> (n, 1, H, W).

        What the class token takes; where there is none, what a patch gives to the mean of all,
        which is what a network with global average pooling reads.
        """
        given = attention[:, 0, 1:] if self.class_token else attention.mean(1)
        grid = torch.unflatten(given, 1, (self.height, self.width))[:, None]
        return upsampled(grid, size)


def tokens_of(count: int, x: Tensor) -> Tokens:
    """What ``count`` tokens of images x (n, c, H, W) are: a grid as wide and high as the image, or
    one token more. Raises MethodError if they are neither, or a single patch."""
    if x.dim() != 4:
        raise MethodError(
            f"its inputs {tuple(x.shape[1:])} are no images (channels, height, width)"
        )
    height, width = x.shape[2:]
    for extra in (1, 0):
        rows = math.isqrt((count - extra) * height // width)
        columns = rows * width // height
        if rows * columns == count - extra and rows * width == columns * height and rows > 1:
            return Tokens(bool(extra), rows, columns)
    raise MethodError(
        f"its {count} tokens are no grid over {height} x {width} pixels, with or without a class "
        "token in front"
    )
