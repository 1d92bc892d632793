"""``gradattr ingest``: any data set to sharded Parquet."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gradattr.errors import UsageError
from gradattr.manifest.data import AnyData, DataSpec


def ingest_data(source: str, to: str, shard_rows: int, endpoint_url: str | None) -> None:
    from gradattr.data import ingest
    from gradattr.manifest.operation import Store
    from gradattr.storage.filesystem import S3Options

    spec = _data_spec(source)
    options = S3Options.from_store(Store(url=to, endpoint_url=endpoint_url))
    index = ingest(spec, to, shard_rows=shard_rows, options=options)
    print(f"{index.rows} rows in {len(index.files)} files under {to}")
    print("  use it as  data: {format: parquet, files: [" + to.rstrip("/") + "]}")


def _data_spec(source: str) -> AnyData:
    """From a YAML file that is a data part, or a manifest with one, or a short form."""
    from gradattr.manifest.yaml_source import read_plain_yaml

    if source.endswith((".yaml", ".yml")):
        if not Path(source).is_file():
            raise UsageError(f"{source}: no such file")
        value = read_plain_yaml(Path(source).read_text(encoding="utf-8"), source)
        if isinstance(value, dict) and "data" in value and "format" not in value:
            value = value["data"]
    else:
        value = source
    try:
        return TypeAdapter(DataSpec).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{source}: data {where}: {first['msg']}") from None
