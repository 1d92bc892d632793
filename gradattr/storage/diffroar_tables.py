"""The tables of a DiffROAR audit: ranks, trials, and the scores that follow from them."""

from __future__ import annotations

import pyarrow as pa

from gradattr.storage.table_spec import ROW, SAMPLE, Column, TableSpec

_LEARNER: Column = (
    "learner",
    pa.string(),
    False,
    "base model whose architecture and recipe are retrained (the first of those that share them)",
)
_VARIANT: Column = (
    "variant",
    pa.string(),
    False,
    "'retrain', 'mask_only' (trained on the masks alone), 'roar' (trained with the top-k removed) "
    "or 'no_retrain' (the base model evaluated on masked data)",
)
_LEVEL: Column = ("level", pa.float64(), False, "k, a share of the coordinates, 0 to 1")
_ARM: Column = (
    "arm",
    pa.string(),
    False,
    "which coordinates are kept: 'top' or 'bottom'; 'rest' of variant 'roar': all but the top",
)
_N: Column = ("n", pa.int32(), False, "trials; of 'no_retrain': test images")
_MEAN = "over the trials"

#: A scheme is a way to order the coordinates: '<base model>/<method>', 'random' or 'linear'.
RANKS = TableSpec(
    "ranks",
    1,
    "one row per image and scheme: the level bin of every coordinate, 0 the highest scores",
    (),
    (
        ROW,
        SAMPLE,
        ("split", pa.string(), False, "'train' or 'test'"),
        ("scheme", pa.string(), False, "'<base model>/<method>', 'random' or 'linear'"),
    ),
)

TRIALS = TableSpec(
    "trials",
    1,
    "one row per retraining",
    ("row",),
    (
        ("row", pa.int64(), False, "number of the trial in the plan, from 0"),
        ("trial", pa.string(), False, "name of the trial; its shard's key"),
        ("scheme", pa.string(), True, "what orders the coordinates; null at level 1: any"),
        _LEARNER,
        _VARIANT,
        _LEVEL,
        _ARM,
        ("seed", pa.int32(), True, "number of the seed; null without retraining"),
        ("kept", pa.int32(), False, "coordinates (or pixels) kept of each image"),
        ("accuracy", pa.float64(), False, "on the masked test set after the last epoch, 0 to 1"),
        (
            "best_accuracy",
            pa.float64(),
            True,
            "of the best epoch: optimistic, because the test set chose it",
        ),
        ("best_epoch", pa.int32(), True, "the earliest epoch with that accuracy, from 1"),
        ("test_loss", pa.float64(), False, "cross-entropy on the masked test set, in nats"),
        ("train_accuracy", pa.float64(), True, "on the batches of the last epoch, 0 to 1"),
        ("train_loss", pa.float64(), True, "of the last epoch, in nats"),
        ("epochs", pa.int32(), True, "number of epochs that were run"),
        ("stopped", pa.string(), True, "'loss': below the recipe's stop_below; or 'epochs'"),
    ),
)

PRED_POWER = TableSpec(
    "pred_power",
    1,
    "one row per cell: the accuracy that the kept coordinates allow",
    ("scheme", "learner", "variant", "level", "arm"),
    (
        ("scheme", pa.string(), False, "what orders the coordinates"),
        ("model", pa.string(), True, "base model of the scheme; null: none"),
        ("method", pa.string(), False, "method of the scheme, or 'random' or 'linear'"),
        _LEARNER,
        _VARIANT,
        _LEVEL,
        _ARM,
        _N,
        ("mean", pa.float64(), False, f"mean test accuracy {_MEAN}, 0 to 1"),
        ("sd", pa.float64(), True, f"sample standard deviation {_MEAN}; null for n = 1"),
        ("low", pa.float64(), True, "lower end of the 95 % interval (Student t); null for n = 1"),
        ("high", pa.float64(), True, "upper end of the 95 % interval"),
        ("best_mean", pa.float64(), True, f"mean best-epoch accuracy {_MEAN}: optimistic"),
    ),
)

DIFFROAR = TableSpec(
    "diffroar",
    1,
    "one row per scheme and level: PredPower(top) - PredPower(bottom), paired by seed",
    ("scheme", "learner", "variant", "level"),
    (
        ("scheme", pa.string(), False, "what orders the coordinates"),
        ("model", pa.string(), True, "base model of the scheme; null: none"),
        ("method", pa.string(), False, "method of the scheme, or 'random' or 'linear'"),
        _LEARNER,
        (
            "variant",
            pa.string(),
            False,
            "'retrain', 'mask_only' (the control) or 'no_retrain'",
        ),
        _LEVEL,
        _N,
        ("diffroar", pa.float64(), False, "mean difference of accuracies, top - bottom"),
        ("sd", pa.float64(), True, "sample standard deviation of the paired differences"),
        ("low", pa.float64(), True, "lower end of the 95 % interval (Student t, paired)"),
        ("high", pa.float64(), True, "upper end of the 95 % interval"),
        ("best_diffroar", pa.float64(), True, "the same of best-epoch accuracies: optimistic"),
        (
            "noise_floor",
            pa.float64(),
            True,
            "largest |difference| at level 1 that chance gives at 95 %: the further end of its "
            "interval from 0; null without level 1",
        ),
        (
            "verdict",
            pa.string(),
            False,
            "'satisfies' (interval above 0), 'violates' (below 0), 'undecided'; "
            "'floor' at level 1; 'control' of variant 'mask_only'",
        ),
    ),
)
