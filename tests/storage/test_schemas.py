"""Tables: columns, descriptions, and what does not fit."""

from __future__ import annotations

import pyarrow as pa
import pytest

from gradattr.errors import UsageError
from gradattr.storage.schemas import TABLES, make_table, maps_schema, schema_digest, table_schema


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_described(name: str) -> None:
    schema = table_schema(name)
    assert schema.metadata[b"gradattr.schema_version"] == b"1"
    for field in schema:
        assert len(field.metadata[b"description"]) > 10, field.name
        assert not pa.types.is_dictionary(field.type)


def test_the_columns_that_others_rely_on() -> None:
    assert table_schema("predictions").names == [
        "row", "sample_id", "label", "predicted", "correct", "confidence", "loss",
        "signal_on_top", "patched", "status", "error",
    ]  # fmt: skip
    assert table_schema("attributions").names == [
        "row", "sample_id", "method", "target", "target_index", "score", "baseline_score",
        "completeness_gap", "completeness_gap_relative", "total", "abs_total", "minimum",
        "maximum", "baseline_confidence", "path_spearman", "evaluations", "status", "error",
    ]  # fmt: skip
    assert table_schema("leakage").names == [
        "row", "sample_id", "method", "level", "share", "region_share", "mass_ratio",
        "signal_on_top", "status",
    ]  # fmt: skip
    assert maps_schema("float16", (3, 8, 8)).names == [
        "row", "sample_id", "method", "status", "channels", "height", "width", "scale", "map",
    ]  # fmt: skip
    assert maps_schema("float16", (3, 8, 8)).metadata[b"gradattr.maps"] == b"float16"


def test_make_table_fills_nullable_columns() -> None:
    table = make_table(
        "predictions", {"row": [0, 1], "sample_id": ["a", "b"], "status": ["ok"] * 2}
    )
    assert table.num_rows == 2
    assert table["label"].null_count == 2


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"row": [0], "sample_id": ["a"]}, "status is missing"),
        ({"row": [0], "sample_id": ["a"], "status": ["ok"], "extra": [1]}, "unknown.*extra"),
        ({"row": [0], "sample_id": ["a"], "status": [None]}, "status may not be null"),
        ({"row": [0], "sample_id": ["a", "b"], "status": ["ok"]}, "sample_id has 2"),
        ({"row": ["x"], "sample_id": ["a"], "status": ["ok"]}, "row"),
        ({"row": [0], "sample_id": ["a"], "status": ["ok"], "label": [2**40]}, "label"),
    ],
)
def test_make_table_refuses(columns: dict[str, list[object]], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_table("predictions", columns)


def test_unknown_tables() -> None:
    with pytest.raises(UsageError, match="there is no table 'metrics'"):
        table_schema("metrics")


def test_the_digest_follows_the_columns() -> None:
    digests = {
        schema_digest(maps_schema("float16", (3, 8, 8))),
        schema_digest(maps_schema("float32", (3, 8, 8))),
        schema_digest(maps_schema("float16", (3, 8, 9))),
        schema_digest(table_schema("predictions")),
    }
    assert len(digests) == 4
    assert schema_digest(table_schema("errors")) == schema_digest(table_schema("errors"))
