"""Data sets of every format as lazy shards: names in, batches of tensors out."""

from gradattr.data.ingest import ingest
from gradattr.data.preprocess import input_bounds, output_shape, preprocess_images
from gradattr.data.registry import (
    index_data,
    input_shape,
    load_all,
    make_shards,
    pick_shards,
    read_shard,
    sample_shards,
)
from gradattr.data.types import Batch, DataIndex, FileRef, RowError, ShardRef

__all__ = [
    "Batch",
    "DataIndex",
    "FileRef",
    "RowError",
    "ShardRef",
    "index_data",
    "ingest",
    "input_bounds",
    "input_shape",
    "load_all",
    "make_shards",
    "output_shape",
    "pick_shards",
    "preprocess_images",
    "read_shard",
    "sample_shards",
]
