"""The patch of a data set: a square painted into some images of a class, and its masks.

An image's *place* is a hash of (seed, sample id). Of the n images of the class, the round(fraction
n) with the lowest places are patched. So the patched images of a smaller fraction are among those
of a larger one, and no shard, batch or order changes them. The planner finds the place below which
images are patched from labels and ids alone, and writes it beside the files that are to be read;
where labels are not known before the images are read (some of torchvision's data sets), it is
fraction times the highest place: each image is drawn by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradattr.data.classes import find_class
from gradattr.data.decode import BadImage, decode_image
from gradattr.data.preprocess import luma
from gradattr.data.raw import Encoded, Masks, RawRows, row_ids
from gradattr.data.types import DataIndex, FileRef, RowKeys
from gradattr.errors import DataError
from gradattr.manifest.data_base import Patch
from gradattr.seeds import sample_seeds

#: Where a FileRef's ``extra`` keeps what is painted into its images.
EXTRA = "patch"
_PLACES = 2**63
_WHITE = 255


@dataclass(frozen=True)
class Painter:
    """A patch, and which images have it."""

    patch: Patch
    label: int | None
    """Of the images that may be patched; None: of every class, and those without a label."""
    below: int
    """Those of them are patched whose place is below."""

    def to_json(self) -> dict[str, Any]:
        return {**self.patch.model_dump(mode="json"), "label": self.label, "below": self.below}

    @classmethod
    def of(cls, file: FileRef) -> Painter | None:
        """What was planned for the images of a file; None: nothing is painted into them."""
        value = file.extra.get(EXTRA)
        if value is None:
            return None
        fields = {key: part for key, part in value.items() if key not in ("label", "below")}
        return cls(Patch.model_validate(fields), value["label"], value["below"])

    def chosen(self, sample_ids: list[str], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,): whether each image is patched."""
        out = np.zeros(len(labels), np.bool_)
        may = _of_class(labels, self.label)
        places = _places(self.patch, [sample_ids[at] for at in may])
        out[may] = [place < self.below for place in places]
        return out

    def paint(self, raw: RawRows, max_pixels: int) -> RawRows:
        """The rows with the patch in those that are chosen, their masks and flags. Encoded images
        are decoded for it. An image that cannot be decoded, or is too small, becomes a fault."""
        chosen = self.chosen(raw.sample_ids, raw.labels)
        usable = [int(at) for at in np.flatnonzero(chosen) if at not in raw.faults]
        images: NDArray[np.generic] | list[Encoded]
        masks: Masks
        faults = dict(raw.faults)
        if isinstance(raw.images, np.ndarray):
            images = raw.images
            masks = np.zeros((len(images), *images.shape[2:]), np.bool_)
            if usable:
                square = self.square(images.shape[2], images.shape[3])
                images = images.copy()  # the source's own array is kept for other shards
                images[usable, :, *square] = self.values(images)[:, None, None]
                masks[usable, *square] = True
        else:
            images, masks = list(raw.images), [None] * len(raw)
            for at in usable:
                try:
                    images[at], masks[at] = self._decoded(raw.images[at], max_pixels)
                except BadImage as error:
                    faults[at] = (error.status, error.text)
        return replace(raw, images=images, masks=masks, patched=chosen, faults=faults)

    def _decoded(
        self, data: Encoded, max_pixels: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """An image (3, h, w) with its patch, and its mask (h, w)."""
        if not isinstance(data, bytes):
            raise BadImage("decode_error", "the row has no image bytes")
        image = decode_image(data, max_pixels=max_pixels).numpy().copy()
        mask = np.zeros(image.shape[1:], np.bool_)
        try:
            square = self.square(image.shape[1], image.shape[2])
        except DataError as error:
            raise BadImage("shape_error", str(error)) from None
        image[:, *square] = self.values(image[None])[:, None, None]
        mask[square] = True
        return image, mask

    def square(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the patch. DataError if it does not fit into the image."""
        size, margin = self.patch.size, self.patch.margin
        if size + margin > min(height, width):
            apart = f" and a margin of {margin}" if margin else ""
            raise DataError(
                f"a patch of {size}x{size} pixels{apart} does not fit into an image of "
                f"{width}x{height}; make patch.size smaller"
            )
        side = self.patch.corner.split("_")
        top = margin if "top" in side else height - margin - size
        left = margin if "left" in side else width - margin - size
        return slice(top, top + size), slice(left, left + size)

    def values(self, images: NDArray[np.generic]) -> NDArray[np.generic]:
        """(c,): the patch's colour in images (n, c, h, w), in their type. Where there are two or
        four channels, the last is opacity. DataError for a colour that the images cannot have."""
        channels, colour = images.shape[1], np.array(self.patch.colour, np.uint8)
        if len(colour) == 3 and channels in (1, 2):
            colour = luma(colour)
        if channels in (2, 4) and len(colour) == (1, 3)[channels == 4]:
            colour = np.append(colour, np.uint8(_WHITE))
        if len(colour) not in (1, channels):
            raise DataError(
                f"patch.colour has {len(colour)} numbers, the images have {channels} channels; "
                "give one number"
            )
        full = np.broadcast_to(colour, (channels,))
        if images.dtype.kind == "f":
            return full.astype(images.dtype) / images.dtype.type(_WHITE)
        return full


def with_patch(index: DataIndex, patch: Patch) -> DataIndex:
    """The index with the patch written beside every file. DataError for an unknown class, or a
    patch that the first image cannot have."""
    label = None if patch.class_ is None else find_class(patch.class_, index, "patch.class")
    keys = index.keys or RowKeys(None)
    painter = Painter(patch, label, _below(patch, label, keys, index.rows))
    channels, height, width = index.files[0].extra["image"]
    painter.square(height, width)
    painter.values(np.empty((0, channels, 1, 1), np.uint8))
    extra = painter.to_json()
    files = tuple(replace(file, extra={**file.extra, EXTRA: extra}) for file in index.files)
    return replace(index, files=files)


def _below(patch: Patch, label: int | None, keys: RowKeys, rows: int) -> int:
    """The place below which images are patched."""
    if patch.fraction in (0, 1):
        return _PLACES if patch.fraction else 0
    labels = keys.labels
    if label is not None and labels is None:
        return int(patch.fraction * _PLACES)
    ids = row_ids(0, rows) if keys.read_ids is None else keys.read_ids()[:rows]
    if labels is not None:
        ids = [ids[at] for at in _of_class(labels[:rows], label)]
    places = np.sort(np.array(_places(patch, ids), np.int64))
    count = math.floor(patch.fraction * len(places) + 0.5)
    return int(places[count]) if count < len(places) else _PLACES


def _of_class(labels: NDArray[np.int64], label: int | None) -> NDArray[np.int64]:
    """Positions of the rows of a class, or of all."""
    return np.arange(len(labels)) if label is None else np.flatnonzero(labels == label)


def _places(patch: Patch, sample_ids: list[str]) -> list[int]:
    return sample_seeds(patch.seed, "patch", sample_ids)
