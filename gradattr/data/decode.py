"""Encoded images to uint8 tensors: colours by one rule, sizes bounded before any decoding.

The rule. Palette, CMYK, YCbCr, LA and RGBA become RGB (alpha is dropped, not blended); 16-bit
becomes 8-bit by its high byte; 1-bit becomes 0 and 255; grey is ITU-R 601 luma. Of an animation
the first frame counts. EXIF orientation and colour profiles are not applied: pixels are used as
stored, as torchvision's training did. 32-bit float images have no agreed white and are refused.
"""

from __future__ import annotations

import functools
import importlib
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@functools.cache
def _jpeg_operator() -> Any:
    """The operator itself, because the function around it is deprecated and warns for each image;
    None where a later torchvision has dropped it. Loaded with the first small JPEG."""
    importlib.import_module("torchvision")  # registers its operators
    return getattr(torch.ops.image, "decode_jpeg", None)


#: Nothing that starts another program (EPS) or that is no still image.
FORMATS = ("JPEG", "PNG", "WEBP", "PPM", "BMP", "GIF", "TIFF")
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
)

_JPEG = b"\xff\xd8\xff"
#: Pixels up to which torchvision decodes JPEG: it saves PIL's fixed cost, some fifty microseconds,
#: and gives the same pixels. Its PNG decoder is not used: damaged files crash the process there.
_SMALL = 128 * 128
#: torchvision's ImageReadMode.RGB.
_RGB = 3
#: Start of a baseline, extended or progressive frame.
_FRAMES = (0xC0, 0xC1, 0xC2)
#: Segments that may stand before the frame: applications' (without Adobe's, 0xEE), tables,
#: restart interval, comment. Anything else, also padding, is left to PIL: a reader that is more
#: tolerant than this one must not see another frame size than it did.
_SEGMENTS = {*range(0xE0, 0xEE), 0xEF, 0xDB, 0xC4, 0xDD, 0xFE}
_WORD_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
#: Bytes of the most expensive pixel (16-bit RGBA) and room for headers: no honest file is larger.
_BYTES_PER_PIXEL = 8
_HEADROOM = 1 << 20


class BadImage(Exception):
    """An image that cannot be used: ``status`` is 'decode_error' or 'too_large'."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header. BadImage if it is no image."""
    with _quiet(), _open(data) as image:
        return image.height, image.width


def decode_image(data: bytes, *, gray: bool = False, max_pixels: int = 50_000_000) -> Tensor:
    """(3, height, width) uint8, or (1, height, width) with ``gray``.

    BadImage: 'too_large' if the header says more than ``max_pixels``; 'decode_error' if the bytes
    are empty, truncated, corrupt or no image.
    """
    check_encoded_bytes(len(data), max_pixels)
    plain = None if gray else _plain_jpeg_size(data)
    small = plain is not None and plain[0] * plain[1] <= _SMALL
    operator = _jpeg_operator() if small else None
    if plain is not None and operator is not None:
        _check_pixels(*plain, max_pixels)
        try:
            decoded: Tensor = operator(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB)
            return decoded
        except RuntimeError:
            pass  # PIL has the last word on what is damaged
    with _quiet(), _open(data) as image:
        _check_pixels(image.height, image.width, max_pixels)
        try:
            array = _to_uint8(image, gray)
        except BadImage:
            raise
        except Exception as error:  # PIL's plugins raise almost anything on damaged bytes
            raise BadImage("decode_error", _reason(error)) from None
    return torch.from_numpy(array).permute(2, 0, 1)


def check_encoded_bytes(size: int, max_pixels: int) -> None:
    """BadImage 'too_large' for a file larger than any image of ``max_pixels`` can be."""
    limit = max_pixels * _BYTES_PER_PIXEL + _HEADROOM
    if size > limit:
        raise BadImage("too_large", f"{size} bytes; an image of max_pixels has at most {limit}")


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(
            "too_large",
            f"{width}x{height} = {width * height} pixels, more than max_pixels = {max_pixels}",
        )


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an 8-bit JPEG of three components without Adobe's marker, else None."""
    if data[:3] != _JPEG:
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            depth, height, width, components = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return (height, width) if (depth, components) == (8, 3) else None
        if marker not in _SEGMENTS:
            return None
        at += 2 + length
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """PIL warns of sizes, where our bound is max_pixels, and of damage, which has a status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("decode_error", "empty: 0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage("too_large", str(error)) from None
    except Exception as error:  # see above
        raise BadImage("decode_error", _reason(error)) from None


def _to_uint8(image: Image.Image, gray: bool) -> NDArray[np.uint8]:
    """(height, width, channels), writable."""
    if image.mode in _WORD_MODES or image.mode == "I":
        image = Image.fromarray(_high_byte(np.asarray(image)))
    elif image.mode == "F":
        raise BadImage("decode_error", "32-bit float pixels have no agreed white; use 8 or 16 bit")
    if gray:
        image = image if image.mode in ("L", "RGB", "1") else _rgb(image)
        array = np.array(image.convert("L"))[:, :, None]
    else:
        array = np.array(_rgb(image))
    return array


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode in ("LA", "La"):
        return image.getchannel(0).convert("RGB")
    return image.convert("RGB")


def _high_byte(words: NDArray[np.generic]) -> NDArray[np.uint8]:
    values = words.astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BadImage("decode_error", "32-bit integer pixels outside 0..65535 have no 8-bit rule")
    return (values >> 8).astype(np.uint8)


def _reason(error: BaseException) -> str:
    """One line without the address of PIL's buffer, so that two attempts write the same text."""
    text = str(error)
    if "cannot identify image file" in text:
        return f"not an image of a supported format ({', '.join(FORMATS)})"
    return f"{type(error).__name__}: {text}"[:300]
