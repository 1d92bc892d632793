"""A column of masks, one per image: encoded like images, or raw beside raw images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradattr.data.decode import BadImage, decode_image
from gradattr.data.parquet_columns import ImageColumn, image_column, read_images, require_column
from gradattr.data.raw import Fault, Masks
from gradattr.errors import DataError


def mask_column(schema: pa.Schema, name: str, image: ImageColumn, where: str) -> ImageColumn:
    """What the schema says about the column of masks. DataError if it holds none that fit."""
    require_column(schema, name, "mask", where)
    try:
        shape = None if image.shape is None else (1, *image.shape[1:])
        column = image_column(schema, name, shape, where)
    except DataError as error:
        raise DataError(
            f"{error} (masks are encoded images, or have the raw images' size)"
        ) from None
    if column.kind == "raw" and image.kind != "raw":
        raise DataError(
            f"{where}: column {name!r} holds raw masks, column {image.name!r} encoded images; "
            "encode the masks too (PNG)"
        )
    return column


def read_masks(
    array: pa.Array, column: ImageColumn, max_pixels: int
) -> tuple[Masks, dict[int, Fault]]:
    """Masks as RawRows wants them, and the rows whose mask cannot be read, by position."""
    absent = set(np.flatnonzero(~array.is_valid().to_numpy(zero_copy_only=False)).tolist())
    images, faults = read_images(array, column)
    faults = {at: fault for at, fault in faults.items() if at not in absent}
    if not isinstance(images, list):
        masks = (images != 0)[:, 0]
        masks[sorted(absent)] = False
        return masks, {at: (status, f"mask: {text}") for at, (status, text) in faults.items()}
    decoded: list[NDArray[np.bool_] | None] = []
    for at, data in enumerate(images):
        try:
            found = None
            if data is not None and at not in faults:
                found = decode_image(data, gray=True, max_pixels=max_pixels)[0].numpy() != 0
            decoded.append(found)
        except BadImage as error:
            faults[at] = (error.status, error.text)
            decoded.append(None)
    return decoded, {at: (status, f"mask: {text}") for at, (status, text) in faults.items()}
