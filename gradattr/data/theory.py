"""The data of DiffROAR's theorem (Shah et al. 2021, eq. 2): one block of many holds the label."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradattr.canonical import digest_json
from gradattr.data.cache import shared
from gradattr.data.files import Files
from gradattr.data.raw import RawRows, row_ids
from gradattr.data.types import DataIndex, FileRef, ShardRef
from gradattr.manifest.data import TheoryData
from gradattr.seeds import derive_seed

#: Changes when the same fields would give other data.
_VERSION = 1


class TheoryReader:
    """Rows as drawn; ids are row numbers. Images (1, d, m), masks True outside the signal block."""

    def __init__(self, spec: TheoryData, files: Files) -> None:
        self.spec = spec

    def index(self) -> DataIndex:
        spec = self.spec
        rows = spec.rows or spec.blocks
        names = tuple(spec.classes or ("-1", "+1"))
        recipe = [_VERSION, spec.blocks, spec.block_dim, spec.eta, rows, spec.seed]
        size = (spec.blocks, spec.block_dim)
        ref = FileRef(
            "theory:",
            4 * rows * spec.blocks * spec.block_dim,
            digest_json([*recipe, spec.rows is None]),
            0,
            rows,
            {"image": [1, *size]},
        )
        return DataIndex("theory", rows, (ref,), 2, names, 1, size)

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        (ref,) = shard.files

        def load() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
            return draw(self.spec)

        x, labels, signal = shared.get(
            ("theory", ref.digest), load, lambda three: three[0].nbytes + three[1].nbytes
        )
        part = slice(shard.start, shard.start + shard.rows)
        null = np.arange(self.spec.blocks) != signal[part, None]
        masks = np.repeat(null[:, :, None], self.spec.block_dim, axis=2)
        ids = row_ids(shard.start, shard.rows)
        yield RawRows(shard.start, ids, labels[part], x[part], masks=masks)


def draw(spec: TheoryData) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """x (n, 1, d, m), labels (n,) 0 for y = -1 and 1 for y = 1, signal blocks j (n,)."""
    half, m = spec.blocks // 2, spec.block_dim
    random = np.random.Generator(np.random.Philox(derive_seed(spec.seed, "theory")))
    if spec.rows is None:
        labels = np.repeat(np.array([0, 1]), half)
        signal = np.tile(np.arange(half), 2)
    else:
        labels = random.integers(0, 2, spec.rows)
        signal = random.integers(0, half, spec.rows)
    x = np.zeros((len(labels), spec.blocks, m))
    if spec.eta > 0:
        x += spec.eta * _in_unit_ball(random, x.shape)
    x[np.arange(len(x)), signal] += (2 * labels - 1)[:, None] / math.sqrt(m)
    return x.astype(np.float32)[:, None], labels.astype(np.int64), signal.astype(np.int64)


def _in_unit_ball(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Points uniform in the unit ball of the last axis: a direction times radius u ** (1 / m)."""
    direction = random.standard_normal(shape)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return direction * random.random((*shape[:-1], 1)) ** (1 / shape[-1])
