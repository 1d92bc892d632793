"""The task that ends an audit: from all trials to PredPower, DiffROAR and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradattr.errors import ShardError
from gradattr.metrics.diffroar import (
    Interval,
    interval,
    noise_floor,
    paired,
    paired_images,
    share,
    verdict,
)
from gradattr.plan import Task
from gradattr.storage.objects import open_store
from gradattr.storage.reader import read_stage
from gradattr.storage.run_json import read_run
from gradattr.storage.schemas import make_table, table_schema
from gradattr.storage.shards import ShardWriter
from gradattr.work.context import RunContext

Row = dict[str, Any]

#: (learner, variant, scheme, level): what both arms have in common. Scheme None: any.
_Pair = tuple[str, str, str | None, float]


@dataclass
class Trials:
    """Everything the trials of a run have found."""

    rows: list[Row] = field(default_factory=list)
    """Rows of the table ``trials``."""
    images: dict[_Pair, Row] = field(default_factory=dict)
    """Without retraining: how many test images are right in both arms, or in one alone."""


def score_trials(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the tables ``pred_power`` and ``diffroar`` from the records of ``payload["stage"]``.

    ``task.payload["schemes"]`` lists {scheme, model, method, learner} in the order of the tables.
    """
    store = open_store(context.manifest.store)
    trials = Trials()
    run, stage = read_run(store, context.run_id), task.payload["stage"]
    for record, table in read_stage(store, run, stage, "trials"):
        collect(trials, table.to_pylist(), record.extra.get("pairs", []))
    schemes = task.payload["schemes"]
    tables = {
        "pred_power": pred_power(trials, schemes),
        "diffroar": diffroar(trials, schemes),
    }
    writer = ShardWriter(store, context.run_id, context.fingerprint, task.stage, task.key)
    for name, rows in tables.items():
        columns = {column: [row[column] for row in rows] for column in table_schema(name).names}
        writer.append(name, make_table(name, columns))
    extra = {"rows": task.rows, "bad_rows": 0, "verdicts": _verdicts(tables["diffroar"])}
    writer.finish(rows=task.rows, row_ids=None, extra=extra)
    return extra


def collect(trials: Trials, rows: Sequence[Row], pairs: Iterable[Row] = ()) -> None:
    """Add one shard's rows of ``trials``, and its counts of images by level if it has any."""
    trials.rows.extend(rows)
    for pair in pairs:
        same = next(row for row in rows if row["level"] == pair["level"])
        key = (same["learner"], same["variant"], same["scheme"], same["level"])
        trials.images[key] = pair


def pred_power(trials: Trials, schemes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of the table ``pred_power``: the accuracy of every cell, over seeds or test images."""
    found = []
    for scheme in schemes:
        for pair, arms in _pairs_of(trials, scheme):
            for arm, by_seed in arms.items():
                power = _power(trials, pair, arm, by_seed)
                best = [row["best_accuracy"] for row in by_seed.values()]
                found.append(
                    _head(scheme, pair)
                    | {"arm": arm}
                    | _numbers(power, "mean")
                    | {"best_mean": None if None in best else interval(best).mean}
                )
    return found


def diffroar(trials: Trials, schemes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of the table ``diffroar``: top - bottom, wherever a cell has both arms."""
    found = []
    for scheme in schemes:
        cells = [cell for cell in _pairs_of(trials, scheme) if {"top", "bottom"} <= cell[1].keys()]
        differences = [_difference(trials, pair, arms) for pair, arms in cells]
        floors = {
            pair[1]: noise_floor(difference)
            for (pair, _), difference in zip(cells, differences, strict=True)
            if pair[3] >= 1
        }
        for (pair, arms), difference in zip(cells, differences, strict=True):
            found.append(
                _head(scheme, pair)
                | _numbers(difference, "diffroar")
                | {
                    "best_diffroar": _best_difference(arms),
                    "noise_floor": floors.get(pair[1]),
                    # The control judges no order: its verdict would be read as the scheme's.
                    "verdict": "control"
                    if pair[1] == "mask_only"
                    else verdict(difference, pair[3]),
                }
            )
    return found


_Arms = dict[str, dict[int | None, Row]]


def _pairs_of(trials: Trials, scheme: Mapping[str, Any]) -> list[tuple[_Pair, _Arms]]:
    """A scheme's cells as one learner judges them: variants as they come, levels ascending, and of
    each arm the row of each seed. Trials of no scheme (everything kept) count for all."""
    found: dict[_Pair, _Arms] = {}
    for row in trials.rows:
        if row["learner"] == scheme["learner"] and row["scheme"] in (scheme["scheme"], None):
            pair = (row["learner"], row["variant"], row["scheme"], row["level"])
            found.setdefault(pair, {}).setdefault(row["arm"], {})[row["seed"]] = row
    variants = list(dict.fromkeys(pair[1] for pair in found))
    return sorted(found.items(), key=lambda cell: (variants.index(cell[0][1]), cell[0][3]))


def _power(trials: Trials, pair: _Pair, arm: str, by_seed: Mapping[int | None, Row]) -> Interval:
    counts = trials.images.get(pair)
    if counts is not None and arm in ("top", "bottom"):
        return share(counts["both"] + counts[f"{arm}_only"], counts["n"])
    return interval([by_seed[seed]["accuracy"] for seed in sorted(by_seed, key=str)])


def _difference(trials: Trials, pair: _Pair, arms: _Arms) -> Interval:
    counts = trials.images.get(pair)
    if counts is not None:
        found = (counts[name] for name in ("both", "top_only", "bottom_only", "n"))
        return paired_images(*found)
    return paired(_by_seed(arms["top"], "accuracy"), _by_seed(arms["bottom"], "accuracy"))


def _best_difference(arms: _Arms) -> float | None:
    if any(row["best_accuracy"] is None for arm in arms.values() for row in arm.values()):
        return None
    best = [_by_seed(arms[arm], "best_accuracy") for arm in ("top", "bottom")]
    return paired(*best).mean


def _by_seed(rows: Mapping[int | None, Row], column: str) -> dict[int, float]:
    numbered = {seed: row[column] for seed, row in rows.items() if seed is not None}
    if len(numbered) != len(rows):
        trial = next(row["trial"] for seed, row in rows.items() if seed is None)
        raise ShardError(
            f"trial {trial}: its record has neither a seed nor counts of images; delete the "
            "record and run the same command again"
        )
    return numbered


def _head(scheme: Mapping[str, Any], pair: _Pair) -> Row:
    return {
        "scheme": scheme["scheme"],
        "model": scheme["model"],
        "method": scheme["method"],
        "learner": pair[0],
        "variant": pair[1],
        "level": pair[3],
    }


def _numbers(found: Interval, mean: str) -> Row:
    ends = {"low": found.low, "high": found.high}
    return {"n": found.n, mean: found.mean, "sd": found.sd, **ends}


def _verdicts(rows: Iterable[Row]) -> dict[str, int]:
    """How often each verdict was reached, for the log."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    return counts
