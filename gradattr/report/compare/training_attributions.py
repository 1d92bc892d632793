"""Two runs of kind tfa: which training images they name, how they score them, and their tests."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy import stats

from gradattr.metrics.run_differences import RunDifference, corrected, unpaired
from gradattr.report.compare.samples import compare_predictions
from gradattr.report.compare.sections import (
    Row,
    Section,
    counts_note,
    difference_rows,
    has_rows,
    likeness_row,
    literal,
    only_in_one,
)
from gradattr.report.results import Run

_TEST = ("method", "side", "map_method", "test", "steps", "level")
_PAIRS = "SELECT query_id, method, side, train_id, score FROM tfa_pairs"
#: Fewest training images in common of which a rank correlation says anything.
_FEWEST = 3
#: Queries of which all scores are compared, at most: each is a pass over them.
_QUERIES = 50
#: What the inputs of a run call its training examples.
_TRAINING_DATA = "data"


def compare_training_attributions(a: Run, b: Run) -> list[Section]:
    """Overlap of the training images of each query, rank correlation of their scores, predictions,
    and the insertion tests side by side."""
    return [*compare_predictions(a, b), *_pairs(a, b), *_tests(a, b)]


_Scores = dict[tuple[str, str, str], dict[str, float]]


def _pairs(a: Run, b: Run) -> list[Section]:
    if not (has_rows(a, "tfa_pairs") and has_rows(b, "tfa_pairs")):
        return []
    both = [_by_query(run) for run in (a, b)]
    queries = [list(dict.fromkeys(key[0] for key in found)) for found in both]
    common = [query for query in queries[0] if query in set(queries[1])]
    methods = [method for method in a.methods if method in b.methods]
    rows: list[Row] = []
    for method in methods:
        for side in ("helpful", "harmful"):
            keys = [(query, method, side) for query in common]
            shares = [_overlap(both[0].get(key, {}), both[1].get(key, {})) for key in keys]
            names = {"method": method, "side": side, "measure": "same training images"}
            rows.append(likeness_row(names, np.array(shares, np.float64)))
        alike = [
            _correlation(*(_both_sides(one, query, method) for one in both)) for query in common
        ]
        names = {"method": method, "side": "both", "measure": "Spearman of scores in common"}
        rows.append(likeness_row(names, np.array(alike, np.float64)))
        whole = _whole_scores(a, b, method, common[:_QUERIES])
        if whole:
            names = {"method": method, "side": "all", "measure": "Spearman of all scores"}
            rows.append(likeness_row(names, np.array(whole, np.float64)))
    notes = counts_note("queries", len(queries[0]), len(queries[1]), len(common))
    notes += only_in_one("scores of", a.methods, b.methods)
    title = "Training images that each query names, over queries"
    kept = [row for row in rows if row["n"]]
    return [Section(title, "likeness", ("method", "side", "measure"), kept, notes)]


def _by_query(run: Run) -> _Scores:
    """Score by training image, of every query, method and side."""
    found: defaultdict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for row in run.sql(f"{_PAIRS} ORDER BY query, method, side, rank").to_pylist():
        found[row["query_id"], row["method"], row["side"]][row["train_id"]] = row["score"]
    return dict(found)


def _overlap(a: dict[str, float], b: dict[str, float]) -> float:
    """Share of the longer list that is in both; NaN where both are empty."""
    longer = max(len(a), len(b))
    return len(a.keys() & b.keys()) / longer if longer else float("nan")


def _both_sides(scores: _Scores, query: str, method: str) -> dict[str, float]:
    sides = (scores.get((query, method, side), {}) for side in ("helpful", "harmful"))
    return {train: score for side in sides for train, score in side.items()}


def _correlation(a: dict[str, float], b: dict[str, float]) -> float:
    common = sorted(a.keys() & b.keys())
    mine, theirs = ([one[train] for train in common] for one in (a, b))
    if len(common) < _FEWEST or len(set(mine)) == 1 or len(set(theirs)) == 1:
        return float("nan")
    return float(stats.spearmanr(mine, theirs).statistic)


def _whole_scores(a: Run, b: Run, method: str, queries: list[str]) -> list[float]:
    """Rank correlation over all training examples of each query; none where a run does not keep
    every score, or the training examples are others."""
    data = [run.inputs.get("data", {}).get(_TRAINING_DATA, {}).get("digest") for run in (a, b)]
    if any(run.manifest.get("keep") != "full" or not has_rows(run, "tda_scores") for run in (a, b)):
        return []
    if data[0] is None or data[0] != data[1]:
        return []
    numbers = [
        {row["sample_id"]: row["query"] for row in run.table("queries").to_pylist()}
        for run in (a, b)
    ]
    return [
        _correlation(_scores(a, numbers[0][query], method), _scores(b, numbers[1][query], method))
        for query in queries
    ]


def _scores(run: Run, query: int, method: str) -> dict[str, float]:
    sql = f"SELECT train_row, score FROM tda_scores WHERE query = {query:d} AND method = "
    found = run.sql(sql + literal(method))
    rows, scores = (found[name].to_pylist() for name in ("train_row", "score"))
    return {str(row): score for row, score in zip(rows, scores, strict=True)}


def _tests(a: Run, b: Run) -> list[Section]:
    if not (has_rows(a, "tfa_summary") and has_rows(b, "tfa_summary")):
        return []
    tables: list[dict[tuple[Any, ...], dict[str, Any]]] = [
        {tuple(row[name] for name in _TEST): row for row in run.table("tfa_summary").to_pylist()}
        for run in (a, b)
    ]
    found: dict[tuple[Any, ...], RunDifference] = {
        key: unpaired(_told(row), _told(tables[1][key]))
        for key, row in tables[0].items()
        if key in tables[1]
    }
    if not found:
        return []
    title = "Tests of the maps: top - random, mean change of the query's loss"
    notes = ["Unpaired (Welch's t): the runs need not have the same pairs"]
    return [Section(title, "differences", _TEST, difference_rows(_TEST, corrected(found)), notes)]


def _told(row: dict[str, Any]) -> tuple[float, float | None, int]:
    return row["difference"], row["sd"], row["n"]
