"""BlockMNIST: a digit and a patch that means nothing, one above the other (Shah et al. 2021).

Image (1, 56, 28): the signal block is a 28x28 digit, the null block a fixed drawing that is the
same for every class. Attribution inside the null block is leakage: no pixel there tells anything
about the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from gradattr.canonical import digest_bytes, digest_json
from gradattr.data.cache import shared
from gradattr.data.digits import DigitsReader
from gradattr.data.files import Files
from gradattr.data.idx import IdxReader
from gradattr.data.raw import RawRows
from gradattr.data.types import DataIndex, FileRef, RowKeys, ShardRef
from gradattr.errors import DataError
from gradattr.manifest.data import BlockMnistData, DigitsData, IdxData
from gradattr.seeds import derive_seed

#: Rows and columns of a block.
SIDE = 28
_WHITE = 255


def null_block(inset: int = 6) -> NDArray[np.uint8]:
    """The patch (28, 28): a square of one-pixel lines, by default rows and columns 6 and 21, and
    its two diagonals, white on black. No bitmap of the authors is public: it is our choice."""
    block = np.zeros((SIDE, SIDE), np.uint8)
    first, last = inset, SIDE - 1 - inset
    inside = np.arange(first, last + 1)
    for edge in (first, last):
        block[edge, inside] = block[inside, edge] = _WHITE
    block[inside, inside] = block[inside, inside[::-1]] = _WHITE
    return block


def enlarged(digits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The embedded digits (n, 1, 8, 8), in sixteenths, as (n, 28, 28): three times as large,
    bilinear, with a margin of two pixels. In whole numbers: the same bytes on every machine."""
    at = np.arange(24) - 1  # thirds of a source pixel
    low, third = np.clip(at // 3, 0, 7), at % 3
    high = np.clip(at // 3 + 1, 0, 7)
    weights = np.zeros((24, 8), np.int64)
    np.add.at(weights, (np.arange(24), low), 3 - third)
    np.add.at(weights, (np.arange(24), high), third)
    levels = np.rint(digits[:, 0] * 16).astype(np.int64)
    large = weights @ levels @ weights.T  # 0 to 16 * 9
    out = np.zeros((len(digits), SIDE, SIDE), np.uint8)
    out[:, 2:26, 2:26] = (large * _WHITE + 72) // 144
    return out


class BlockMnistReader:
    """Rows in the order of the digits' own file; the sample id is the number of the digit there,
    so it does not depend on which digits are used, nor on where they stand."""

    def __init__(self, spec: BlockMnistData, files: Files) -> None:
        self.spec = spec
        self.files = files
        self._source: IdxReader | DigitsReader
        if spec.images is None:
            self._source = DigitsReader(DigitsData(format="digits", split=spec.split), files)
        else:
            idx = IdxData(
                format="idx",
                images=spec.images,
                labels=spec.labels,
                digest=spec.digest,
                max_pixels=spec.max_pixels,
            )
            self._source = IdxReader(idx, files)

    def index(self) -> DataIndex:
        spec = self.spec
        source = self._source.index()
        (file,) = source.files
        if spec.images is not None and source.size and source.size != (SIDE, SIDE):
            raise DataError(
                f"{file.url}: images of {source.size[1]}x{source.size[0]} pixels; BlockMNIST is "
                f"made of digits of {SIDE}x{SIDE}"
            )
        recipe = [
            file.digest,
            spec.digits,
            spec.signal,
            spec.seed,
            digest_bytes(null_block(spec.inset).tobytes()),
        ]
        digest = digest_json(recipe)
        _, labels, numbers = self._digits(file, digest)
        missing = [d for at, d in enumerate(spec.digits) if not (labels == at).any()]
        if missing:
            raise DataError(f"{file.url}: no image is labelled {', '.join(map(str, missing))}")
        names = tuple(spec.classes or map(str, spec.digits))
        if len(names) != len(spec.digits):
            raise DataError(
                f"blockmnist: {len(names)} names in 'classes' for {len(spec.digits)} digits"
            )
        extra = {"image": [1, 2 * SIDE, SIDE], "source": asdict(file)}
        ref = FileRef(file.url, file.bytes, digest, 0, len(numbers), extra)
        return DataIndex(
            "blockmnist",
            len(numbers),
            (ref,),
            len(names),
            names,
            1,
            (2 * SIDE, SIDE),
            RowKeys(labels, lambda: _ids(numbers)),
        )

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        (ref,) = shard.files
        digits, labels, numbers = self._digits(FileRef(**ref.extra["source"]), ref.digest)
        part = slice(shard.start, shard.start + shard.rows)
        ids = _ids(numbers[part])
        top = self._on_top(ids)
        images, masks = compose(digits[part], top, null_block(self.spec.inset))
        yield RawRows(shard.start, ids, labels[part], images, masks=masks, signal_on_top=top)

    def _on_top(self, ids: list[str]) -> NDArray[np.bool_]:
        if self.spec.signal == "top":
            return np.ones(len(ids), np.bool_)
        seed = self.spec.seed
        bits = [derive_seed(seed, "signal_on_top", one) & 1 for one in ids]
        return np.array(bits, np.bool_)

    def _digits(
        self, file: FileRef, digest: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The digits that are used (n, 28, 28), their classes and their numbers in the source."""

        def load() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
            whole = ShardRef(0, 0, file.rows, (file,))
            (rows,) = self._source.read(whole, file.rows)
            wanted = np.array(self.spec.digits)
            chosen = np.flatnonzero(np.isin(rows.labels, wanted))
            found = rows.labels[chosen]
            order = np.argsort(wanted)
            classes = order[np.searchsorted(wanted[order], found)]
            images = np.asarray(rows.images)[chosen]
            pixels = enlarged(images) if self.spec.images is None else images[:, 0]
            numbers = np.array([int(rows.sample_ids[at]) for at in chosen], np.int64)
            return np.ascontiguousarray(pixels), classes.astype(np.int64), numbers

        if self.spec.images is not None:
            self.files.check_unchanged(file.url, file.extra["bytes"])
        key = ("blockmnist", file.url, digest)
        return shared.get(key, load, lambda three: three[0].nbytes)


def _ids(numbers: NDArray[np.int64]) -> list[str]:
    return [f"{number:08d}" for number in numbers]


def compose(
    digits: NDArray[np.uint8], on_top: NDArray[np.bool_], null: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images (n, 1, 56, 28) of ``digits`` (n, 28, 28) and the patch ``null`` (28, 28), and masks
    (n, 56, 28), True where that patch stands."""
    blocks = np.empty((len(digits), 2, SIDE, SIDE), np.uint8)
    rows = np.arange(len(digits))
    signal = np.where(on_top, 0, 1)
    blocks[rows, signal] = digits
    blocks[rows, 1 - signal] = null
    masks = np.zeros((len(digits), 2, SIDE, SIDE), np.bool_)
    masks[rows, 1 - signal] = True
    return blocks.reshape(-1, 1, 2 * SIDE, SIDE), masks.reshape(-1, 2 * SIDE, SIDE)
