"""``gradattr ingest``: any data set to sharded Parquet."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from gradattr.errors import UsageError
from gradattr.manifest.data import AnyData, DataSpec
from gradattr.manifest.loading import load_data
from gradattr.work.manifests import read_bytes_of


def ingest_data(
    source: str,
    to: str,
    shard_rows: int,
    only: Sequence[str],
    rows: str | None,
    endpoint_url: str | None,
) -> None:
    from gradattr.data.ingest import MASK_COLUMN, ingest
    from gradattr.manifest.operation import Store
    from gradattr.storage.filesystem import S3Options

    spec = _data_spec(source)
    try:
        target = Store(url=to, endpoint_url=endpoint_url)
    except ValidationError as error:
        raise UsageError(f"{to}: {error.errors()[0]['msg']}") from None
    index = ingest(
        spec,
        to,
        shard_rows=shard_rows,
        only=only,
        rows=None if rows is None else _row_range(rows),
        options=S3Options.from_store(target),
    )
    masks = f", mask: {MASK_COLUMN}" if spec.has_masks else ""
    print(f"{index.rows} rows in {len(index.files)} files under {to}")
    print(f"  use it as  data: {{format: parquet, files: ['{to.rstrip('/')}']{masks}}}")


def _row_range(text: str) -> tuple[int | None, int | None]:
    """'START:STOP', either of which may be left out."""
    match = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", text)
    if match is None:
        raise UsageError(
            f"--rows {text}: expected START:STOP, whole numbers, for example 0:1000; row START is "
            "the first, row STOP the first that is left out"
        )
    start, stop = match.groups()
    return int(start) if start else None, int(stop) if stop else None


def _data_spec(source: str) -> AnyData:
    """From a YAML file with a data part, or a short form such as 'torchvision:CIFAR10'."""
    if source.endswith((".yaml", ".yml")):
        return load_data(source, read=read_bytes_of)
    try:
        return TypeAdapter(DataSpec).validate_python(source)
    except ValidationError:
        raise UsageError(
            f"{source}: expected a YAML file with a 'data:' part, 'digits', or 'torchvision:<name>'"
        ) from None
