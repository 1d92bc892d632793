"""From decoded pixels to the model's input, for many images at once.

The operations are those of torchvision's published weights (``weights.transforms()``) on tensors:
on the same pixels they give the same float32 values, bit for bit. Every operation treats each
image by itself, so a batch equals its images one at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess

Shape = tuple[int, int, int]

#: ITU-R 601 luma in 1/65536, as PIL computes it: grey stays exactly what it was.
_LUMA = (19595, 38470, 7471)


def output_shape(preprocess: Preprocess, source: Shape) -> Shape:
    """(channels, height, width) of an image of shape ``source`` after pre-processing.

    DataError if the colours cannot be converted, or mean and std have another channel count.
    """
    channels = _channels(preprocess, source[0])
    if preprocess.mean is not None and len(preprocess.mean) not in (1, channels):
        raise DataError(
            f"preprocess.mean has {len(preprocess.mean)} numbers, the images have {channels} "
            f"channel{'s' * (channels != 1)}; give {channels}, or set preprocess.color"
        )
    if preprocess.crop is not None:
        height, width = _pair(preprocess.crop)
        return channels, height, width
    return (channels, *resized(preprocess, source[1], source[2]))


def resized(preprocess: Preprocess, height: int, width: int) -> tuple[int, int]:
    """(height, width) after the resize step, before the crop."""
    size = preprocess.resize
    if size is None:
        return height, width
    if isinstance(size, list):
        return size[0], size[1]
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def geometry(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Colour, resize, crop: (n, c, h, w) -> (n, C, H, W), uint8 or float32 as it came."""
    images = _colour(images, preprocess).contiguous()
    size = resized(preprocess, images.shape[2], images.shape[3])
    if size == tuple(images.shape[2:]) and preprocess.crop is None:
        return images
    # Here: it brings all of torchvision, whose import takes seconds.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    if size != tuple(images.shape[2:]):
        mode = InterpolationMode(preprocess.interpolation)
        images = F.resize(images, list(size), interpolation=mode, antialias=True)
    if preprocess.crop is not None:
        images = F.center_crop(images, list(_pair(preprocess.crop)))
    return images


def normalise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Scale uint8 to [0, 1], subtract mean, divide by std: (n, C, H, W) -> float32.

    Float images are in [0, 1] units already.
    """
    x = images.float() / 255 if images.dtype == torch.uint8 else images.to(torch.float32, copy=True)
    if preprocess.mean is None or preprocess.std is None:
        return x
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocess.mean, preprocess.std))
    return x.sub_(mean).div_(std)


def preprocess_images(images: Tensor, preprocess: Preprocess) -> Tensor:
    """All steps: (n, c, h, w) uint8 (or float32 in [0, 1]) -> (n, C, H, W) float32."""
    return normalise(geometry(images, preprocess), preprocess)


def luma(colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(1,) grey of a colour (red, green, blue), as an image of that colour becomes grey."""
    return _luma(torch.from_numpy(colour).view(1, 3, 1, 1)).flatten().numpy()


def input_bounds(preprocess: Preprocess, channels: int) -> tuple[Tensor, Tensor]:
    """What black (0) and white (1) become: two (channels,) float32 tensors."""
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, channels, 1, 1)
    black, white = normalise(ends, preprocess)[:, :, 0, 0]
    return black, white


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _channels(preprocess: Preprocess, channels: int) -> int:
    if preprocess.color == "auto":
        return channels
    if channels not in (1, 2, 3, 4):
        raise DataError(
            f"preprocess.color '{preprocess.color}': there is no rule for images of {channels} "
            "channels; use 'auto'"
        )
    return 3 if preprocess.color == "rgb" else 1


def _colour(images: Tensor, preprocess: Preprocess) -> Tensor:
    wanted = _channels(preprocess, images.shape[1])
    if preprocess.color == "auto" or wanted == images.shape[1]:
        return images
    opaque = images[:, :3] if images.shape[1] == 4 else images[:, :1]
    if images.shape[1] == 3:
        opaque = images
    if wanted == opaque.shape[1]:
        return opaque
    return opaque.expand(-1, 3, -1, -1) if wanted == 3 else _luma(opaque)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    if images.dtype == torch.uint8:
        total = sum(w * c.to(torch.int32) for w, c in zip(_LUMA, (red, green, blue), strict=True))
        return ((torch.as_tensor(total) + 0x8000) >> 16).to(torch.uint8)[:, None]
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
