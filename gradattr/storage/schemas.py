"""The Arrow schemas of all tables, with a description of every column in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from gradattr.canonical import digest_json
from gradattr.errors import UsageError
from gradattr.storage.audit_tables import JOBS
from gradattr.storage.diffroar_tables import DIFFROAR, PRED_POWER, RANKS, TRIALS
from gradattr.storage.evaluation_tables import EVALUATION_TABLES
from gradattr.storage.maps import map_fields
from gradattr.storage.patching_tables import PATCHING_TABLES
from gradattr.storage.table_spec import ERROR, METHOD, ROW, SAMPLE, STATUS, Column, TableSpec
from gradattr.storage.tfa_tables import SKETCHES, TFA_BULK, TFA_TABLES

SIGNAL_ON_TOP: Column = (
    "signal_on_top",
    pa.bool_(),
    True,
    "BlockMNIST: whether the upper block holds the signal; null for other data",
)

PATCHED: Column = (
    "patched",
    pa.bool_(),
    True,
    "of data with 'patch': whether this image has the patch; null for other data",
)

PREDICTIONS = TableSpec(
    "predictions",
    1,
    "one row per input row: what the model says",
    ("row",),
    (
        ROW,
        SAMPLE,
        ("label", pa.int32(), True, "class index from the data; null if there is none"),
        ("predicted", pa.int32(), True, "class index with the largest logit"),
        ("correct", pa.bool_(), True, "predicted = label; null without a label"),
        ("confidence", pa.float32(), True, "softmax probability of the predicted class"),
        ("loss", pa.float32(), True, "cross-entropy at the label, in nats"),
        SIGNAL_ON_TOP,
        PATCHED,
        STATUS,
        ERROR,
    ),
)

ATTRIBUTIONS = TableSpec(
    "attributions",
    1,
    "one row per input row and method: the map's scalars",
    ("row", "method"),
    (
        ROW,
        SAMPLE,
        METHOD,
        ("target", pa.string(), False, "the scalar that is differentiated, as in the manifest"),
        ("target_index", pa.int32(), True, "class index that the target refers to"),
        ("score", pa.float32(), True, "value of the target at the input x"),
        ("baseline_score", pa.float32(), True, "value of the target at the baseline"),
        (
            "completeness_gap",
            pa.float32(),
            True,
            "sum of the map - (score - baseline_score); null where the method has no such law",
        ),
        (
            "completeness_gap_relative",
            pa.float32(),
            True,
            "|completeness_gap| / |score - baseline_score|",
        ),
        ("total", pa.float32(), True, "sum of the map, signed"),
        ("abs_total", pa.float32(), True, "sum of the map's absolute values"),
        ("minimum", pa.float32(), True, "smallest value of the map"),
        ("maximum", pa.float32(), True, "largest value of the map"),
        (
            "baseline_confidence",
            pa.float32(),
            True,
            "softmax probability of the explained class at the baseline; null where the method "
            "walks no path from one baseline",
        ),
        (
            "path_spearman",
            pa.float32(),
            True,
            "Spearman's correlation of the place on that path with that probability, from the "
            "baseline to the input; null where it never changes",
        ),
        ("evaluations", pa.int32(), False, "model evaluations (forward, or forward and backward)"),
        STATUS,
        ERROR,
    ),
)

MAPS = TableSpec(
    "maps",
    1,
    "one row per input row and method: the map itself; its columns depend on store.maps",
    ("row", "method"),
    (
        ROW,
        SAMPLE,
        METHOD,
        STATUS,
        ("channels", pa.int16(), True, "channels of the map"),
        ("height", pa.int32(), True, "rows of the map, in pixels"),
        ("width", pa.int32(), True, "columns of the map, in pixels"),
    ),
)

LEAKAGE = TableSpec(
    "leakage",
    1,
    "one row per input row, method and level: how much of the map lies in the region that the "
    "image's mask marks: where there is no signal, or the patch (of data with masks)",
    ("row", "method", "level"),
    (
        ROW,
        SAMPLE,
        METHOD,
        ("level", pa.float64(), False, "share of the pixels that count as highest-ranked, 0 to 1"),
        (
            "share",
            pa.float64(),
            True,
            "share of these pixels, by the sum of |map| over channels, that the mask marks; ties "
            "count with their expected share",
        ),
        ("region_share", pa.float64(), True, "marked share of all pixels: what chance gives"),
        ("mass_ratio", pa.float64(), True, "sum of |map| in the marked region / sum of |map|"),
        SIGNAL_ON_TOP,
        (
            "status",
            pa.string(),
            False,
            "as in the table attributions; 'zero_map': the map is 0 everywhere and ranks nothing",
        ),
    ),
)

ERRORS = TableSpec(
    "errors",
    1,
    "one row per failure of a row, in any step",
    (),
    (
        ROW,
        SAMPLE,
        ("stage", pa.string(), False, "the plan's stage in which it happened"),
        ("method", pa.string(), True, "the method's id; null where the row itself is bad"),
        STATUS,
        ERROR,
    ),
)

TRAINING = TableSpec(
    "training",
    1,
    "one row per epoch of a training",
    (),
    (
        (
            "model",
            pa.string(),
            False,
            "'model', 'linear:<method id>' for an auxiliary one, or the base model's name",
        ),
        ("epoch", pa.int32(), False, "number of the epoch, from 1"),
        ("loss", pa.float64(), False, "mean training cross-entropy of the epoch, in nats"),
        ("accuracy", pa.float64(), True, "training accuracy, 0 to 1"),
        ("test_loss", pa.float64(), True, "cross-entropy on the test data, in nats"),
        ("test_accuracy", pa.float64(), True, "accuracy on the test data, 0 to 1"),
        ("lr", pa.float64(), True, "learning rate of the epoch"),
        (
            "robust_test_accuracy",
            pa.float64(),
            True,
            "accuracy on the adversarially perturbed test data, after the last epoch of an "
            "adversarial training",
        ),
    ),
)

TABLES: dict[str, TableSpec] = {
    table.name: table
    for table in (
        PREDICTIONS,
        ATTRIBUTIONS,
        MAPS,
        LEAKAGE,
        ERRORS,
        TRAINING,
        RANKS,
        TRIALS,
        PRED_POWER,
        DIFFROAR,
        *TFA_TABLES,
        *PATCHING_TABLES,
        *EVALUATION_TABLES,
        JOBS,
    )
}
"""Every table by name. All but the bulk tables are compacted when a run is committed."""

MAP_CHOICE = b"gradattr.maps"
"""Schema metadata of the table ``maps``: the storage choice, which its reader needs."""

BULK_TABLES = ("maps", "ranks", *TFA_BULK)
"""Tables that stay as the tasks wrote them."""


def table_schema(name: str) -> pa.Schema:
    """Schema of a scalar table."""
    return _known(name).schema


def maps_schema(
    storage_choice: str, shape: tuple[int, int, int], table: str = MAPS.name
) -> pa.Schema:
    """Schema of ``table`` (one that holds maps) for maps of ``shape`` = (channels, height,
    width)."""
    schema = _known(table).schema_with(map_fields(storage_choice, shape))
    return schema.with_metadata(schema.metadata | {MAP_CHOICE: storage_choice.encode()})


def sketches_schema(buckets: int) -> pa.Schema:
    """Schema of the table ``sketches`` with so many values each."""
    tensor = pa.fixed_shape_tensor(pa.float16(), (buckets,))
    text = "signed sums of the gradient's elements by bucket, over its norm"
    return SKETCHES.schema_with((("sketch", tensor, False, text),))


def make_table(name: str, columns: Mapping[str, Any], schema: pa.Schema | None = None) -> pa.Table:
    """A table of one schema from columns by name (lists, numpy or Arrow arrays).

    Nullable columns that are not given are null. UsageError: an unknown column, a missing
    non-nullable one, a value that does not fit, columns of unequal length.
    """
    schema = schema or table_schema(name)
    unknown = sorted(set(columns) - set(schema.names))
    if unknown:
        raise UsageError(f"table {name}: unknown columns {', '.join(unknown)}")
    rows = len(next(iter(columns.values()))) if columns else 0
    arrays = [_column(name, field, columns.get(field.name), rows) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(table: str, field: pa.Field, values: Any, rows: int) -> pa.Array | pa.ChunkedArray:
    if values is None:
        if not field.nullable and rows:
            raise UsageError(f"table {table}: column {field.name} is missing")
        return pa.nulls(rows, field.type)
    try:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            array = values if values.type == field.type else values.cast(field.type)
        else:
            array = pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise UsageError(f"table {table}: column {field.name} ({field.type}): {error}") from None
    if len(array) != rows:
        raise UsageError(f"table {table}: {field.name} has {len(array)} values, expected {rows}")
    if array.null_count and not field.nullable:
        raise UsageError(f"table {table}: column {field.name} may not be null")
    return array


def schema_digest(schema: pa.Schema) -> str:
    """16 hex digits that change with names, types and order of the columns."""
    columns = [[field.name, str(field.type), field.nullable] for field in schema]
    return digest_json(columns)[:16]


def _known(name: str) -> TableSpec:
    if name not in TABLES:
        raise UsageError(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]
