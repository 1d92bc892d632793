"""The tables of patching: prompts, effects, baselines, and how faithful the estimates are."""

from __future__ import annotations

import pyarrow as pa

from gradattr.storage.table_spec import ERROR, ROW, SAMPLE, STATUS, Column, TableSpec

_BASELINE: Column = ("baseline", pa.string(), False, "the baseline's id in the manifest")
_METHOD: Column = (
    "method",
    pa.string(),
    False,
    "'activation_patching' (exact), 'attribution_patching' or 'integrated_patching' (estimates)",
)

PROMPTS = TableSpec(
    "prompts",
    1,
    "one row per prompt: its tokens, and what the model says next",
    ("row",),
    (
        ROW,
        SAMPLE,
        ("prompt", pa.string(), True, "the prompt as the data has it"),
        ("tokens", pa.list_(pa.string()), True, "its tokens, each decoded by itself"),
        ("answer", pa.string(), True, "the next token that is explained"),
        ("answer_id", pa.int32(), True, "number of that token in the vocabulary"),
        ("answer_prob", pa.float32(), True, "its softmax probability"),
        ("foil", pa.string(), True, "the token that 'logit_difference' subtracts; null if none"),
        ("foil_id", pa.int32(), True, "number of that token in the vocabulary"),
        ("predicted", pa.string(), True, "the most probable next token"),
        ("predicted_id", pa.int32(), True, "number of that token in the vocabulary"),
        ("predicted_prob", pa.float32(), True, "its softmax probability"),
        (
            "status",
            pa.string(),
            False,
            "'ok', or why there is no result: decode_error, empty, too_long, answer_error, "
            "foil_error, non_finite",
        ),
        ERROR,
    ),
)

#: A row for every place: prompts differ in how many they have.
PATCHING = TableSpec(
    "patching",
    1,
    "one row per prompt, baseline, method, site and position: the effect of the prompt's "
    "activation there on the score of the baseline's run",
    (),
    (
        ROW,
        SAMPLE,
        _BASELINE,
        _METHOD,
        ("site", pa.int16(), False, "0: input embedding; i: output of block i, from 1"),
        ("position", pa.int32(), False, "position of the token in the prompt, from 0"),
        ("token", pa.string(), False, "the token at that position"),
        ("effect", pa.float32(), False, "change of the score; of estimates to first order"),
    ),
)

PATCHING_BASELINES = TableSpec(
    "patching_baselines",
    1,
    "one row per prompt and baseline: where the baseline is, and what the model says there",
    ("row", "baseline"),
    (
        ROW,
        SAMPLE,
        _BASELINE,
        ("score", pa.float32(), True, "the manifest's score at the prompt"),
        ("baseline_score", pa.float32(), True, "the score at the baseline"),
        ("confidence", pa.float32(), True, "softmax probability of the answer at the prompt"),
        ("baseline_confidence", pa.float32(), True, "that probability at the baseline"),
        ("distance", pa.float32(), True, "Euclidean distance from the prompt, over all tokens"),
        ("relative_distance", pa.float32(), True, "distance / Euclidean norm of the prompt"),
        (
            "status",
            pa.string(),
            False,
            "'ok'; the prompt's own status; or 'length_error': the corrupted prompt has another "
            "number of tokens; 'degenerate': the baseline is the prompt itself; 'non_finite'",
        ),
        ERROR,
    ),
)

PATCHING_AGREEMENT = TableSpec(
    "patching_agreement",
    1,
    "one row per prompt, baseline and estimating method: how far the estimate is from the exact "
    "effects, over all sites and positions",
    ("row", "baseline", "method"),
    (
        ROW,
        SAMPLE,
        _BASELINE,
        _METHOD,
        ("l2", pa.float64(), True, "Euclidean norm of estimate - exact effects"),
        ("relative_l2", pa.float64(), True, "l2 / norm of the exact effects; null if these are 0"),
        ("spearman", pa.float64(), True, "rank correlation; null if either is constant"),
        STATUS,
    ),
)

FAITHFULNESS = TableSpec(
    "faithfulness",
    1,
    "one row per baseline, estimating method and measure: mean over prompts of the table "
    "'patching_agreement', with its interval",
    ("baseline", "method", "measure"),
    (
        _BASELINE,
        _METHOD,
        ("measure", pa.string(), False, "'l2', 'relative_l2' or 'spearman'"),
        ("n", pa.int32(), False, "prompts that have this measure"),
        ("mean", pa.float64(), False, "mean over these prompts"),
        ("sd", pa.float64(), True, "sample standard deviation (divisor n - 1); null for n = 1"),
        ("low", pa.float64(), True, "lower end of the mean's 95 % interval, Student's t"),
        ("high", pa.float64(), True, "upper end of that interval"),
    ),
)

PATCHING_TABLES = (PROMPTS, PATCHING, PATCHING_BASELINES, PATCHING_AGREEMENT, FAITHFULNESS)
