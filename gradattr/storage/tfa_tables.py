"""The tables of training feature attribution: scores, pairs, maps of them, and their tests."""

from __future__ import annotations

import pyarrow as pa

from gradattr.storage.table_spec import ERROR, SAMPLE, STATUS, Column, TableSpec

_QUERY: Column = ("query", pa.int32(), False, "number of the query in the table 'queries', from 0")
_TRAIN_ROW: Column = (
    "train_row",
    pa.int64(),
    False,
    "number of the training example's row in the training data, from 0",
)
_TRAIN_ID: Column = ("train_id", pa.string(), False, "the training example's sample id")
_METHOD: Column = ("method", pa.string(), False, "the score's id in the manifest")
_SCORE: Column = (
    "score",
    pa.float32(),
    False,
    "how much the training example helps (positive) or harms (negative) the query",
)
_SIDE: Column = (
    "side",
    pa.string(),
    False,
    "'helpful' (highest scores, above 0) or 'harmful' (lowest, below 0)",
)
_RANK: Column = ("rank", pa.int32(), False, "place on its side, from 1")
_MAP_METHOD: Column = ("map_method", pa.string(), False, "the map's id in the manifest")
_PAIR = (_QUERY, _TRAIN_ROW, _TRAIN_ID, _METHOD, _SIDE, _RANK)
_MAPPED = (*_PAIR, _MAP_METHOD)
_TEST: Column = (
    "test",
    pa.string(),
    False,
    "'insertion': only these pixels are kept; 'deletion': they are removed",
)
_STEPS: Column = ("steps", pa.int32(), False, "steps of plain SGD on the training image")
_LEVEL: Column = ("level", pa.float64(), False, "share of the pixels, 0 to 1")

QUERIES = TableSpec(
    "queries",
    1,
    "one row per query: the predictions that are explained",
    ("query",),
    (
        _QUERY,
        ("query_row", pa.int64(), False, "number of its row in the query data, from 0"),
        SAMPLE,
        ("label", pa.int32(), True, "class index from the data; null if there is none"),
        ("predicted", pa.int32(), False, "class index with the largest logit"),
        ("correct", pa.bool_(), True, "predicted = label; null without a label"),
        ("confidence", pa.float32(), False, "softmax probability of the predicted class"),
        ("loss", pa.float32(), True, "cross-entropy at the label, in nats"),
    ),
)

#: Written shard by shard: parts of a matrix that may have 10^9 entries.
TDA_SCORES = TableSpec(
    "tda_scores",
    1,
    "one row per query, training example and method, of those that the manifest's 'keep' asks for",
    (),
    (_QUERY, _TRAIN_ROW, _METHOD, _SCORE),
)

TDA_EXTREMES = TableSpec(
    "tda_extremes",
    1,
    "each scoring task's highest and lowest scores, from which those of the whole training set are "
    "merged",
    (),
    (
        _QUERY,
        _TRAIN_ROW,
        _TRAIN_ID,
        ("train_label", pa.int32(), False, "its class index"),
        _METHOD,
        _SCORE,
    ),
)

#: Its column 'sketch' depends on the manifest.
SKETCHES = TableSpec(
    "sketches",
    1,
    "one row per training example: a count sketch of its gradient",
    (),
    (
        _TRAIN_ROW,
        _TRAIN_ID,
        ("train_label", pa.int32(), False, "its class index"),
        ("norm", pa.float32(), False, "Euclidean norm of its gradient"),
    ),
)

TENSORS = TableSpec(
    "tensors",
    1,
    "what later tasks compute with (the curvature, its inverse times queries): pieces of tensors",
    (),
    (
        ("tensor", pa.string(), False, "name of the tensor"),
        ("part", pa.int32(), False, "number of the piece, from 0"),
        ("type", pa.string(), False, "NumPy's name of the type of its values"),
        ("shape", pa.list_(pa.int64()), False, "shape of the whole tensor"),
        ("values", pa.large_binary(), False, "the piece's values, little-endian"),
    ),
)

TFA_PAIRS = TableSpec(
    "tfa_pairs",
    1,
    "one row per query, method, side and rank: the training images that moved the prediction most",
    ("query", "method", "side", "rank"),
    (
        *_PAIR,
        _SCORE,
        ("query_id", pa.string(), False, "the query's sample id"),
        ("query_label", pa.int32(), True, "its class index; null if there is none"),
        ("query_predicted", pa.int32(), False, "the class that the model says"),
        ("train_label", pa.int32(), False, "the training example's class index"),
        ("train_predicted", pa.int32(), False, "the class that the model says there"),
        ("train_loss", pa.float32(), False, "cross-entropy at the training example, in nats"),
        (
            "marked_area",
            pa.float64(),
            True,
            "share of the training image's pixels in the marked region (a patch): what chance "
            "gives to 'marked_share' in tfa_map_scores; null: the data has no masks",
        ),
    ),
)

#: The columns that hold a map depend on ``store.maps``.
TFA_MAPS = TableSpec(
    "tfa_maps",
    1,
    "one row per pair and map of its pixels: the map of the training image",
    ("query", "method", "side", "rank", "map_method"),
    (
        *_MAPPED,
        STATUS,
        ("channels", pa.int16(), True, "channels of the map"),
        ("height", pa.int32(), True, "rows of the map, in pixels"),
        ("width", pa.int32(), True, "columns of the map, in pixels"),
    ),
)

TFA_LAYER_MAPS = TableSpec(
    "tfa_layer_maps",
    1,
    "one row per pair and map of a layer: one channel, upsampled to the training image",
    TFA_MAPS.key,
    TFA_MAPS.columns,
)

TFA_MAP_SCORES = TableSpec(
    "tfa_map_scores",
    1,
    "one row per pair and map: the map's scalars, and how it is judged",
    TFA_MAPS.key,
    (
        *_MAPPED,
        ("total", pa.float32(), True, "sum of the map, signed"),
        ("abs_total", pa.float32(), True, "sum of the map's absolute values"),
        (
            "marked_share",
            pa.float64(),
            True,
            "share of the highest-ranked pixels, by |map| averaged over channels, in the marked "
            "region; null without masks, or where nothing is marked",
        ),
        ("marked_area", pa.float64(), True, "share of all pixels that are marked: chance"),
        ("mass_ratio", pa.float64(), True, "sum of |map| in the marked region / sum of |map|"),
        (
            "spearman",
            pa.float64(),
            True,
            "rank correlation of |map| summed over channels with that of the manifest's first map; "
            "null of the first",
        ),
        (
            "top_overlap",
            pa.float64(),
            True,
            "share of the first map's 10 % highest-ranked pixels that are among this one's; null "
            "of the first",
        ),
        STATUS,
        ERROR,
    ),
)

TFA_INSERTION = TableSpec(
    "tfa_insertion",
    1,
    "one row per pair, map, test, number of steps and level: how steps on the masked training "
    "image move the query's loss",
    ("query", "method", "side", "rank", "map_method", "test", "steps", "level"),
    (
        *_MAPPED,
        _TEST,
        _STEPS,
        _LEVEL,
        ("top", pa.float64(), False, "change of the query's loss, in nats; pixels by the map"),
        ("random", pa.float64(), False, "the same with as many pixels at random"),
    ),
)

TFA_SUMMARY = TableSpec(
    "tfa_summary",
    1,
    "one row per method, side, map, test, number of steps and level: the test over all pairs",
    ("method", "side", "map_method", "test", "steps", "level"),
    (
        _METHOD,
        _SIDE,
        _MAP_METHOD,
        _TEST,
        _STEPS,
        _LEVEL,
        ("n", pa.int32(), False, "number of pairs"),
        ("top", pa.float64(), False, "mean change of the loss, pixels by the map"),
        ("random", pa.float64(), False, "mean change of the loss, pixels at random"),
        ("difference", pa.float64(), False, "mean of top - random, paired"),
        ("sd", pa.float64(), True, "sample standard deviation of the paired differences"),
        ("low", pa.float64(), True, "lower end of the 95 % interval (Student t over pairs)"),
        ("high", pa.float64(), True, "upper end of the 95 % interval"),
    ),
)

INDEX_RECALL = TableSpec(
    "index_recall",
    1,
    "one row per query of the sample, method and side: what the index finds of the exact answer",
    ("query", "method", "side"),
    (
        _QUERY,
        _METHOD,
        _SIDE,
        ("top", pa.int32(), False, "how many highest (or lowest) exact scores are looked for"),
        ("candidates", pa.int32(), False, "training images of a side that are scored exactly"),
        ("recall", pa.float64(), False, "share of them among the candidates"),
        ("ranked_recall", pa.float64(), False, "share of them among as many highest estimates"),
    ),
)

TFA_TABLES = (
    QUERIES,
    TDA_SCORES,
    TDA_EXTREMES,
    SKETCHES,
    TENSORS,
    TFA_PAIRS,
    TFA_MAPS,
    TFA_LAYER_MAPS,
    TFA_MAP_SCORES,
    TFA_INSERTION,
    TFA_SUMMARY,
    INDEX_RECALL,
)
TFA_BULK = ("tda_scores", "tda_extremes", "sketches", "tensors", "tfa_maps", "tfa_layer_maps")
"""Those that stay as the tasks wrote them."""
