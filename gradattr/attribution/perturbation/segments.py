"""Segments: the parts of an image that are switched on and off together."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization, per_channel

SegmentsName = Literal["grid", "slic"]

NEEDS_SUPERPIXELS = (
    "segments 'slic' need scikit-image, which is not installed: "
    "pip install 'gradattr[superpixels]', or use segments 'grid'"
)


def has_superpixels() -> bool:
    """Whether scikit-image can be imported."""
    try:
        import skimage.segmentation  # noqa: F401
    except ImportError:
        return False
    return True


def find_segments(
    kind: SegmentsName, x: Tensor, count: int, normalization: Normalization
) -> list[Tensor]:
    """Of each image x (n, c, h, w): segment of every pixel, (h, w) int64 on the CPU, 0 to m - 1.

    m is ``count`` or a number near it; with 'slic' it differs from image to image.
    """
    if kind == "grid":
        return [grid(x.shape[-2], x.shape[-1], count)] * len(x)
    low, high = per_channel(normalization.black, x), per_channel(normalization.white, x)
    pixels = ((x - low) / (high - low)).double().cpu()
    return [_superpixels(image, count) for image in torch.nan_to_num(pixels, 0, 1, 0)]


def grid_shape(height: int, width: int, count: int) -> tuple[int, int]:
    """Rows and columns of about ``count`` cells that are about square."""
    rows = min(max(round((count * height / width) ** 0.5), 1), height, count)
    return rows, min(max(round(count / rows), 1), width)


def grid(height: int, width: int, count: int) -> Tensor:
    """(height, width) int64: cells whose sides differ by one pixel at most."""
    rows, columns = grid_shape(height, width, count)
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return row[:, None] * columns + column


def _superpixels(image: Tensor, count: int) -> Tensor:
    """SLIC with scikit-image's own settings; ``image`` (c, h, w), pixels from 0 to 1."""
    from skimage.segmentation import slic

    found = slic(image.permute(1, 2, 0).numpy(), n_segments=count, start_label=0, channel_axis=-1)
    _, numbered = torch.unique(torch.from_numpy(found), return_inverse=True)
    return numbered
