"""What every format of ``data:`` shares, the patch among it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from gradattr.manifest.base import Seed, Spec

Positive = Annotated[int, Field(gt=0)]


class Patch(Spec):
    """A square painted into a corner of some images of one class: a shortcut that is known, to see
    whether it is found. Each image has a mask of its patch, and the flag 'patched'."""

    # 'class' is a word of Python's; in files, and wherever this is written as JSON, it is 'class'.
    model_config = ConfigDict(serialize_by_alias=True)

    class_: str | Annotated[int, Field(ge=0)] | None = Field(default=None, alias="class")
    """Whose images are patched: a class name of the data set, or a label's number. Default: every
    image's."""
    fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of these images that are patched, from 0, none, to 1, all. Which ones is decided by
    their sample ids: those of a smaller share are among those of a larger one."""
    size: Positive
    """Side of the square, in pixels of the source: before the image is resized or cropped."""
    colour: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        default=[255], min_length=1, max_length=3
    )
    """One number for every channel, or red, green and blue, each 0 to 255. An image of one channel
    gets the luma of three (ITU-R 601); where pixels are floats, 255 is 1.0."""
    corner: Literal["bottom_right", "bottom_left", "top_left", "top_right"] = "bottom_right"
    """Where the square stands."""
    margin: Annotated[int, Field(ge=0)] = 0
    """Pixels between the square and the image's edges."""
    seed: Seed = 0
    """Decides, with an image's sample id, whether it is among those that are patched."""

    @model_validator(mode="after")
    def _colours(self) -> Patch:
        if len(self.colour) == 2:
            raise ValueError("colour: 2 numbers; expected one, or three (red, green, blue)")
        return self


def _is_none(value: Any) -> bool:
    return value is None


class DataBase(Spec):
    """Fields that every format shares."""

    limit: Positive | None = None
    """Use only the first N rows (rows, in the data set's own order). Default: all."""

    classes: list[str] | None = Field(default=None, min_length=1)
    """Class names in label order. Default: what the data set itself says, if it says."""

    digest: Literal["content", "quick"] = "content"
    """What identifies the data in the run's fingerprint: 'content' hashes every byte once per
    plan; 'quick' uses names, sizes and the store's ETags (for data too large to read twice)."""

    max_pixels: Positive = 50_000_000
    """Images with more pixels than this (width x height) are refused as 'too_large'."""

    # Written down only where there is one: runs without keep their fingerprints.
    patch: Patch | None = Field(default=None, exclude_if=_is_none)
    """Paint a patch into some of the images, and mark it by masks. Not for data that has masks of
    its own."""

    @property
    def has_own_masks(self) -> bool:
        """Whether the data itself comes with a mask for each image."""
        return False

    @property
    def has_masks(self) -> bool:
        """Whether each image has a mask. It marks a region: where there can be no signal, in data
        that has masks of its own; else the patch."""
        return self.patch is not None or self.has_own_masks

    @model_validator(mode="after")
    def _one_mask(self) -> DataBase:
        if self.patch is not None and self.has_own_masks:
            raise ValueError(
                "patch: this data has masks of its own, and an image has one mask; leave out "
                "'patch', or the masks where that is possible"
            )
        return self
