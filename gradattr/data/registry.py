"""The one door to data: index a data set, cut it into shards, read a shard as batches.

>>> from pydantic import TypeAdapter
>>> from gradattr.manifest.data import DataSpec, Preprocess
>>> spec = TypeAdapter(DataSpec).validate_python("digits")
>>> index = index_data(spec)
>>> shards = make_shards(index, 500)
>>> [shard.rows for shard in shards]
[500, 500, 500, 297]
>>> next(read_shard(spec, shards[3], Preprocess(), batch_size=64)).x.shape
torch.Size([64, 1, 8, 8])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch

from gradattr.data.batches import make_batches
from gradattr.data.blockmnist import BlockMnistReader
from gradattr.data.cifar import CifarReader
from gradattr.data.digits import DigitsReader
from gradattr.data.files import DigestCache, Files
from gradattr.data.folder import FolderReader
from gradattr.data.idx import IdxReader
from gradattr.data.npz import NpzReader
from gradattr.data.parquet import ParquetReader
from gradattr.data.patch import Painter, with_patch
from gradattr.data.preprocess import Shape, output_shape
from gradattr.data.raw import RawRows, rebatch
from gradattr.data.svhn import SvhnReader
from gradattr.data.theory import TheoryReader
from gradattr.data.torchvision_sets import TorchvisionReader
from gradattr.data.types import Batch, DataIndex, FileRef, ShardRef
from gradattr.data.webdataset import WebDatasetReader
from gradattr.errors import DataError
from gradattr.manifest.data import AnyData, Preprocess
from gradattr.storage.filesystem import S3Options


class Reader(Protocol):
    """What a format offers. Every FileRef has extra["image"] = [channels, height, width]."""

    def index(self) -> DataIndex:
        """Look at every file once. May name more rows than the manifest's limit."""

    def read(self, shard: ShardRef, batch_size: int) -> Iterator[RawRows]:
        """The shard's rows in order, in pieces that suit the format."""


READERS: dict[str, Callable[[Any, Files], Reader]] = {
    "digits": DigitsReader,
    "blockmnist": BlockMnistReader,
    "theory": TheoryReader,
    "idx": IdxReader,
    "cifar10": CifarReader,
    "svhn": SvhnReader,
    "folder": FolderReader,
    "parquet": ParquetReader,
    "npz": NpzReader,
    "webdataset": WebDatasetReader,
    "torchvision": TorchvisionReader,
}


def index_data(
    spec: AnyData, *, cache: DigestCache | None = None, options: S3Options | None = None
) -> DataIndex:
    """Look at a data set: its files, rows, classes and digests.

    ``cache`` remembers content digests of files that the store gives an ETag for.
    DataError for anything wrong: missing, empty, damaged, duplicate ids, labels out of range.
    StoreError if the store cannot be reached at the moment.
    """
    return replace(index_rows(spec, cache=cache, options=options), keys=None)


def index_rows(
    spec: AnyData, *, cache: DigestCache | None = None, options: S3Options | None = None
) -> DataIndex:
    """``index_data``, with ``keys``: the labels and sample ids of all rows, where they are known.
    They may name more rows than the index."""
    index = READERS[spec.format](spec, Files(options, cache)).index()
    if index.rows == 0:
        raise DataError(f"data format '{spec.format}': the data set is empty, it has no rows")
    if spec.limit is not None:
        index = _clip(index, spec.limit)
    return index if spec.patch is None else with_patch(index, spec.patch)


def make_shards(index: DataIndex, shard_rows: int) -> tuple[ShardRef, ...]:
    """Cut into shards of ``shard_rows`` rows (the last may be smaller), in row order."""
    starts = range(0, index.rows, shard_rows)
    return cut_shards(index, ((start, min(start + shard_rows, index.rows)) for start in starts))


def cut_shards(index: DataIndex, spans: Iterable[tuple[int, int]]) -> tuple[ShardRef, ...]:
    """A shard for each span (start, stop) of rows. The spans are in row order, and disjoint."""
    shards = []
    at = 0
    for number, (start, stop) in enumerate(spans):
        while index.files[at].first_row + index.files[at].rows <= start:
            at += 1
        files = _overlapping(index.files, at, stop)
        shards.append(ShardRef(number, start, stop - start, files))
    return tuple(shards)


def sample_shards(index: DataIndex, count: int, seed: int) -> tuple[ShardRef, ...]:
    """``count`` distinct random rows (all of them if there are fewer), in row order.

    The choice depends on ``seed`` and the number of rows alone.
    """
    generator = torch.Generator().manual_seed(seed)
    return pick_shards(index, torch.randperm(index.rows, generator=generator)[:count].tolist())


def pick_shards(index: DataIndex, rows: Iterable[int]) -> tuple[ShardRef, ...]:
    """Shards that hold exactly these rows, in row order; neighbouring rows share one."""
    chosen = sorted(set(rows))
    begins = [n for n, row in enumerate(chosen) if n == 0 or chosen[n - 1] != row - 1]
    ends = [*begins[1:], len(chosen)]
    spans = ((chosen[begin], chosen[end - 1] + 1) for begin, end in zip(begins, ends, strict=True))
    return cut_shards(index, spans if chosen else ())


def read_shard(
    spec: AnyData,
    shard: ShardRef,
    preprocess: Preprocess,
    *,
    batch_size: int,
    options: S3Options | None = None,
) -> Iterator[Batch]:
    """The shard's rows in order, each exactly once: in ``rows`` or in ``errors``.

    Batches hold ``batch_size`` rows, bad ones counted; the last may hold fewer. Ids and values
    do not depend on shards or batches. DataError if the data is not what was planned; ShardError
    if a part of a file cannot be read, so that no row of it is known.
    """
    source = source_shape(shard.files[0])
    yield from make_batches(
        read_raw(spec, shard, batch_size=batch_size, options=options),
        preprocess,
        output_shape(preprocess, source),
        batch_size=batch_size,
        max_pixels=spec.max_pixels,
    )


def read_raw(
    spec: AnyData, shard: ShardRef, *, batch_size: int, options: S3Options | None = None
) -> Iterator[RawRows]:
    """The shard's rows as the format stores them: encoded images stay encoded, but for those that
    are painted on."""
    pieces = READERS[spec.format](spec, Files(options)).read(shard, batch_size)
    painter = Painter.of(shard.files[0])
    if painter is None:
        return pieces
    # Small pieces, because painted arrays are copies.
    return (painter.paint(raw, spec.max_pixels) for raw in rebatch(pieces, batch_size))


def load_all(
    spec: AnyData,
    index: DataIndex,
    preprocess: Preprocess,
    *,
    options: S3Options | None = None,
) -> Batch:
    """The whole data set in memory, for training. DataError naming the bad rows, if any."""
    x = torch.empty((index.rows, *input_shape(spec, index, preprocess)))
    labels = torch.empty(index.rows, dtype=torch.int64)
    sample_ids: list[str] = []
    errors = []
    masks: list[torch.Tensor] = []
    tops: list[torch.Tensor] = []
    patched: list[torch.Tensor] = []
    for shard in make_shards(index, index.rows):
        for batch in read_shard(spec, shard, preprocess, batch_size=512, options=options):
            x[batch.rows] = batch.x
            labels[batch.rows] = batch.labels
            sample_ids += batch.sample_ids
            errors += batch.errors
            masks += [] if batch.masks is None else [batch.masks]
            tops += [] if batch.signal_on_top is None else [batch.signal_on_top]
            patched += [] if batch.patched is None else [batch.patched]
    if errors:
        shown = "; ".join(f"{e.sample_id!r}: {e.status}, {e.error}" for e in errors[:5])
        raise DataError(
            f"{len(errors)} of {index.rows} rows cannot be used, all are needed here: {shown}"
            f"{' ...' if len(errors) > 5 else ''}. Repair or remove them"
        )
    return Batch(
        x,
        labels,
        list(range(index.rows)),
        sample_ids,
        [],
        torch.cat(masks) if masks else None,
        torch.cat(tops) if tops else None,
        torch.cat(patched) if patched else None,
    )


def input_shape(spec: AnyData, index: DataIndex, preprocess: Preprocess) -> Shape:
    """(channels, height, width) of the model's input.

    The first readable image decides, where images differ and nothing makes them equal.
    DataError if mean and std, or the colours, do not fit.
    """
    return output_shape(preprocess, source_shape(index.files[0]))


def source_shape(file: FileRef) -> Shape:
    """(channels, height, width) before pre-processing, of the first readable image."""
    channels, height, width = file.extra["image"]
    return channels, height, width


def _overlapping(files: tuple[FileRef, ...], at: int, stop: int) -> tuple[FileRef, ...]:
    end = at
    while end < len(files) and files[end].first_row < stop:
        end += 1
    return files[at:end]


def _clip(index: DataIndex, limit: int) -> DataIndex:
    if limit >= index.rows:
        return index
    files = tuple(
        replace(file, rows=min(file.rows, limit - file.first_row))
        for file in index.files
        if file.first_row < limit
    )
    return replace(index, rows=limit, files=files)
