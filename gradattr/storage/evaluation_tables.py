"""The tables of an evaluation: what metrics say of every map, and what follows for the methods."""

from __future__ import annotations

import pyarrow as pa

from gradattr.storage.table_spec import METHOD, ROW, SAMPLE, Column, TableSpec

METRIC: Column = (
    "metric",
    pa.string(),
    False,
    "'<metric's id>_<measure>', such as 'deletion_auc'; the metric's id alone where it has one",
)
_CURVE: Column = ("curve", pa.string(), False, "'<metric's id>_<curve>', or the metric's id alone")
_HIGHER: Column = (
    "higher_is_better",
    pa.bool_(),
    True,
    "whether a higher value speaks for the method; null: neither does",
)
_N: Column = ("n", pa.int32(), False, "images that have a value")
_LOW: Column = ("low", pa.float64(), True, "lower end of the mean's 95 % bootstrap interval (BCa)")
_HIGH: Column = ("high", pa.float64(), True, "upper end of that interval; null for n < 2")
_FIRST: Column = ("first", pa.string(), False, "id of a method")
_SECOND: Column = ("second", pa.string(), False, "id of another one, later in the alphabet")

#: No keys of the next three: a metric may look at some of the images only, and not at every method.
SCORES = TableSpec(
    "scores",
    1,
    "one row per image, method and metric: how the map is judged",
    (),
    (
        ROW,
        SAMPLE,
        METHOD,
        METRIC,
        ("value", pa.float64(), True, "in the metric's unit; null where there is none"),
        (
            "status",
            pa.string(),
            False,
            "'ok'; 'undefined': the metric has no value for this map (a constant one, an empty "
            "mask); or why there is no map, as in the table attributions",
        ),
    ),
)

SAMPLE_CURVES = TableSpec(
    "sample_curves",
    1,
    "one row per image, method and curve: what the metric's number is the summary of",
    (),
    (
        ROW,
        SAMPLE,
        METHOD,
        _CURVE,
        (
            "values",
            pa.list_(pa.float64()),
            True,
            "one value per step, in the order of the table 'curves'; null where there is no map",
        ),
    ),
)

SAMPLE_AGREEMENT = TableSpec(
    "sample_agreement",
    1,
    "one row per image and pair of methods: how alike their maps are",
    (),
    (
        ROW,
        SAMPLE,
        _FIRST,
        _SECOND,
        ("spearman", pa.float64(), True, "rank correlation of the pixels' values, -1 to 1"),
        ("spearman_magnitude", pa.float64(), True, "the same of the magnitudes, -1 to 1"),
        ("top_overlap", pa.float64(), True, "share of the highest pixels that both have, 0 to 1"),
    ),
)

SUMMARY = TableSpec(
    "summary",
    1,
    "one row per method and metric: its mean over the images with an interval, and its rank",
    ("method", "metric"),
    (
        METHOD,
        METRIC,
        _HIGHER,
        _N,
        ("missing", pa.int32(), False, "images without a value"),
        ("mean", pa.float64(), True, "mean over the images that have a value, in its unit"),
        ("sd", pa.float64(), True, "sample standard deviation (divisor n - 1); null for n < 2"),
        _LOW,
        _HIGH,
        (
            "mean_rank",
            pa.float64(),
            True,
            "mean over images of the method's rank among all, 1 the best, ties at their average; "
            "null where neither direction is better",
        ),
        ("rank", pa.int32(), True, "1 + number of methods with a smaller mean rank"),
        (
            "tied_with",
            pa.list_(pa.string()),
            True,
            "methods whose mean is not told apart from this one's (corrected p >= 0.05)",
        ),
    ),
)

DIFFERENCES = TableSpec(
    "differences",
    1,
    "one row per metric and pair of methods: first - second over the same images",
    ("metric", "first", "second"),
    (
        METRIC,
        _FIRST,
        _SECOND,
        ("n", pa.int32(), False, "images for which both have a value"),
        ("mean", pa.float64(), True, "mean of first - second, in the metric's unit"),
        ("low", pa.float64(), True, "lower end of its 95 % bootstrap interval, paired"),
        ("high", pa.float64(), True, "upper end of that interval; null for n < 2"),
        ("p", pa.float64(), True, "of the sign-flip test, two-sided, in (0, 1]"),
        ("p_corrected", pa.float64(), True, "after Holm's correction over the metric's pairs"),
    ),
)

CURVES = TableSpec(
    "curves",
    1,
    "one row per method, curve and step: mean over the images, with its interval",
    ("method", "curve", "step"),
    (
        METHOD,
        _CURVE,
        ("step", pa.int32(), False, "number of the step, from 0"),
        ("x", pa.float64(), True, "where the step is: a share of the pixels; null for stages"),
        ("label", pa.string(), True, "name of the stage, such as a module; null where x says it"),
        _N,
        ("mean", pa.float64(), True, "mean over the images that have a value"),
        ("sd", pa.float64(), True, "sample standard deviation; null for n < 2"),
        _LOW,
        _HIGH,
    ),
)

AGREEMENT = TableSpec(
    "agreement",
    1,
    "one row per pair of methods and measure: mean over the images of 'sample_agreement'",
    ("first", "second", "measure"),
    (
        _FIRST,
        _SECOND,
        ("measure", pa.string(), False, "'spearman', 'spearman_magnitude' or 'top_overlap'"),
        _N,
        ("mean", pa.float64(), True, "mean over the images that have a value"),
        ("sd", pa.float64(), True, "sample standard deviation; null for n < 2"),
        _LOW,
        _HIGH,
    ),
)

EVALUATION_TABLES = (
    SCORES,
    SAMPLE_CURVES,
    SAMPLE_AGREEMENT,
    SUMMARY,
    DIFFERENCES,
    CURVES,
    AGREEMENT,
)
