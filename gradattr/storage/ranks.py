"""The ranks of an audit: the level bin of every coordinate of every image, one byte each.

Stored once per scheme; every level and both arms of it are ranges of bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gradattr.canonical import canonical_json
from gradattr.errors import IntegrityError, ShardError
from gradattr.storage.compaction import read_verified
from gradattr.storage.diffroar_tables import RANKS
from gradattr.storage.layout import RunPaths
from gradattr.storage.objects import ObjectStore
from gradattr.storage.schemas import make_table
from gradattr.storage.shards import read_record

#: Schema metadata: what the bins mean.
LEVELS = b"gradattr.levels"
CUTS = b"gradattr.cuts"


def ranks_schema(
    shape: tuple[int, int, int], levels: Sequence[float], cuts: Sequence[int]
) -> pa.Schema:
    """Schema of the table ``ranks`` for bins of ``shape`` = (channels or 1, height, width).

    ``cuts`` are the ranks at which a bin begins, ascending; the first begins at rank 0.
    """
    tensor = pa.fixed_shape_tensor(pa.uint8(), shape)
    text = "the level bin of each coordinate, in (channel, row, column) order; 0: highest |score|"
    schema = RANKS.schema_with((("bins", tensor, False, text),))
    means = {LEVELS: canonical_json(list(levels)), CUTS: canonical_json(list(cuts))}
    return schema.with_metadata(schema.metadata | means)


def ranks_table(
    schema: pa.Schema,
    rows: Sequence[int],
    sample_ids: Sequence[str],
    split: str,
    scheme: str,
    bins: np.ndarray,
) -> pa.Table:
    """Rows of the table for bins (n, c, h, w) uint8."""
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(bins))
    columns = {
        "row": list(rows),
        "sample_id": list(sample_ids),
        "split": [split] * len(rows),
        "scheme": [scheme] * len(rows),
        "bins": tensor,
    }
    return make_table("ranks", columns, schema)


def read_ranks(
    store: ObjectStore,
    run_id: str,
    fingerprint: str,
    shards: Iterable[tuple[str, str]],
    scheme: str,
    rows: int,
    shape: tuple[int, int, int],
    models: dict[str, str],
) -> np.ndarray:
    """Bins (rows, c, h, w) uint8 of one scheme on one split, from its ``shards`` (stage, key).
    ``models`` learns which weights they were computed with (role -> sha256).

    Every byte is verified. ShardError: a shard's record or file is missing. IntegrityError: a file
    is altered, or the shards do not hold every row exactly once.
    """
    bins = np.empty((rows, *shape), np.uint8)
    seen = np.zeros(rows, bool)
    paths = RunPaths(run_id)
    for stage, key in shards:
        record = read_record(store, run_id, fingerprint, stage, key, check="bulk")
        if record is None:
            raise ShardError(
                f"{store.url(paths.record(stage, key))}: the ranks are missing or damaged; run the "
                "same command again to compute them anew"
            )
        models |= record.extra.get("models", {})
        for file in record.tables["ranks"].files:
            table = read_verified(store, paths, file)
            table = table.filter(pc.equal(table["scheme"], scheme))
            where = table["row"].to_numpy()
            if seen[where].any() or len(np.unique(where)) < len(where):
                raise IntegrityError(
                    f"{store.url(paths.absolute(file.key))}: has rows of scheme {scheme} twice"
                )
            for chunk, at in _chunks(table["bins"], where):
                bins[at] = chunk
            seen[where] = True
    if not seen.all():
        raise IntegrityError(
            f"run {run_id}: {int((~seen).sum())} of {rows} images have no ranks by scheme {scheme}"
        )
    return bins


def _chunks(column: pa.ChunkedArray, where: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    start = 0
    for chunk in column.chunks:
        yield chunk.to_numpy_ndarray(), where[start : start + len(chunk)]
        start += len(chunk)
