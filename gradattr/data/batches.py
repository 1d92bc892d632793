"""Raw rows in, batches of tensors out: decoding, pre-processing, and each bad row by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradattr.data.decode import BadImage, decode_image
from gradattr.data.preprocess import Shape, geometry, normalise, output_shape, resized
from gradattr.data.raw import Encoded, Fault, Masks, RawRows, rebatch
from gradattr.data.types import Batch, RowError
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess

#: Decoded pixels that wait to be resized together: 4 Mpixel are 12 MB as uint8, 48 as float32.
_TOGETHER = 4_000_000


def make_batches(
    pieces: Iterable[RawRows],
    preprocess: Preprocess,
    shape: Shape,
    *,
    batch_size: int,
    max_pixels: int,
) -> Iterator[Batch]:
    """Batches of at most ``batch_size`` rows whose x is (n, *shape) float32."""
    for raw in rebatch(pieces, batch_size):
        images, kept, faults = prepare(raw, preprocess, shape, max_pixels)
        batch = _batch(raw, normalise(images, preprocess), kept, faults)
        if raw.masks is not None:
            batch.masks = prepare_masks([raw.masks[at] for at in kept], preprocess, shape)
        yield batch


def prepare(
    raw: RawRows, preprocess: Preprocess, shape: Shape, max_pixels: int
) -> tuple[Tensor, list[int], dict[int, Fault]]:
    """Decode, colour, resize and crop: everything but scaling.

    Returns images (n, *shape), the positions of these n rows, and the faults of the others.
    """
    faults = dict(raw.faults)
    if isinstance(raw.images, np.ndarray):
        tensors = _arrays(raw.images, preprocess, shape, faults)
    else:
        tensors = _decoded(raw.images, raw.masks, preprocess, shape, max_pixels, faults)
    kept = [at for at in range(len(raw)) if at not in faults]
    return tensors, kept, faults


def _batch(raw: RawRows, x: Tensor, kept: list[int], faults: dict[int, Fault]) -> Batch:
    labels = torch.from_numpy(raw.labels[kept] if faults else raw.labels.copy())
    errors = [RowError(raw.first + at, raw.sample_ids[at], *faults[at]) for at in sorted(faults)]
    rows = [raw.first + at for at in kept]
    top = None if raw.signal_on_top is None else torch.from_numpy(raw.signal_on_top[kept])
    patched = None if raw.patched is None else torch.from_numpy(raw.patched[kept])
    ids = [raw.sample_ids[at] for at in kept]
    return Batch(x, labels, rows, ids, errors, signal_on_top=top, patched=patched)


def prepare_masks(
    masks: Sequence[NDArray[np.bool_] | None], preprocess: Preprocess, shape: Shape
) -> Tensor:
    """Masks (n, *shape[1:]) bool of the images after pre-processing: the nearest pixel counts.

    Every mask has its image's size, which was held when the image was read."""
    steps = preprocess.model_copy(update={"interpolation": "nearest", "color": "auto"})
    done = torch.zeros((len(masks), *shape[1:]), dtype=torch.bool)
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, mask in enumerate(masks):
        if mask is not None:
            groups.setdefault(mask.shape, []).append(at)
    for places in groups.values():
        same = np.stack([mask for at in places if (mask := masks[at]) is not None])
        pixels = torch.from_numpy(same.astype(np.uint8))[:, None]
        done[places] = geometry(pixels, steps)[:, 0] != 0
    return done


def _arrays(
    images: NDArray[np.generic], preprocess: Preprocess, shape: Shape, faults: dict[int, Fault]
) -> Tensor:
    if images.dtype.kind == "f":
        finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
        for at in np.flatnonzero(~finite):
            faults.setdefault(int(at), ("decode_error", "NaN or infinity in the pixels"))
    if faults:
        images = images[[at for at in range(len(images)) if at not in faults]]
    if not len(images):
        kind = torch.float32 if images.dtype.kind == "f" else torch.uint8
        return torch.empty((0, *shape), dtype=kind)
    # A copy: the source may be read-only, and the batch must not keep the whole file alive.
    return geometry(torch.from_numpy(np.array(images, order="C")), preprocess)


def _decoded(
    encoded: Sequence[Encoded],
    masks: Masks | None,
    preprocess: Preprocess,
    shape: Shape,
    max_pixels: int,
    faults: dict[int, Fault],
) -> Tensor:
    gray = preprocess.color == "gray"
    done: list[Tensor] = []
    waiting: list[Tensor] = []
    for at, data in enumerate(encoded):
        if at in faults:
            continue
        try:
            image = _decode_one(data, preprocess, shape, gray, max_pixels)
            if masks is not None:
                _check_mask(masks[at], image)
        except BadImage as error:
            faults[at] = (error.status, error.text)
            continue
        if waiting and not _fits(waiting, image):
            done.append(geometry(torch.stack(waiting), preprocess))
            waiting = []
        waiting.append(image)
    if waiting:
        done.append(geometry(torch.stack(waiting), preprocess))
    if not done:
        return torch.empty((0, *shape), dtype=torch.uint8)
    return torch.cat(done) if len(done) > 1 else done[0]


def _decode_one(
    data: Encoded, preprocess: Preprocess, shape: Shape, gray: bool, max_pixels: int
) -> Tensor:
    if data is None:
        raise BadImage("decode_error", "the row has no image bytes")
    if isinstance(data, bytes):
        image = decode_image(data, gray=gray, max_pixels=max_pixels)
    else:
        image = torch.from_numpy(data)
    height, width = image.shape[1], image.shape[2]
    to = resized(preprocess, height, width)
    if to[0] * to[1] > max_pixels or min(to) < 1:
        raise BadImage("too_large", f"{width}x{height} would be resized to {to[1]}x{to[0]}")
    try:
        got = output_shape(preprocess, (image.shape[0], height, width))
    except DataError as error:
        raise BadImage("shape_error", str(error)) from None
    if got != shape:
        raise BadImage(
            "shape_error",
            f"{width}x{height} becomes {got[2]}x{got[1]}, the data set's first image "
            f"{shape[2]}x{shape[1]}; set preprocess.crop, or preprocess.resize to "
            "[height, width]",
        )
    return image


def _check_mask(mask: NDArray[np.bool_] | None, image: Tensor) -> None:
    if mask is not None and mask.shape != tuple(image.shape[1:]):
        height, width = mask.shape
        raise BadImage(
            "shape_error",
            f"the mask is {width}x{height}, its image {image.shape[2]}x{image.shape[1]}",
        )


def _fits(waiting: list[Tensor], image: Tensor) -> bool:
    first = waiting[0]
    pixels = first.shape[1] * first.shape[2]
    return first.shape == image.shape and (len(waiting) + 1) * pixels <= _TOGETHER
