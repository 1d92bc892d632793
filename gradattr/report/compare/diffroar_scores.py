"""Two DiffROAR audits: every score that both have."""

from __future__ import annotations

import math
from typing import Any

from gradattr.metrics.run_differences import RunDifference, corrected, paired_by_seed, unpaired
from gradattr.report.compare.sections import Section, difference_rows, has_rows, only_in_one
from gradattr.report.results import Run

_NAMES = ("scheme", "learner", "variant", "level")
#: A cell of an audit.
_Cell = tuple[str, str, str, float]


def compare_audits(a: Run, b: Run) -> list[Section]:
    """B's DiffROAR less A's, of each scheme, learner, variant and level; paired by seed where both
    runs drew their seeds alike."""
    if not (has_rows(a, "diffroar") and has_rows(b, "diffroar")):
        return []
    scores = [_scores(run) for run in (a, b)]
    seeds = [_by_seed(run) for run in (a, b)]
    # Seed 3 of another manifest seed is another draw.
    alike = a.manifest.get("seed") == b.manifest.get("seed")
    found: dict[tuple[Any, ...], RunDifference] = {}
    ways: dict[str, int] = {}
    for key, first in scores[0].items():
        if key not in scores[1]:
            continue
        second = scores[1][key]
        mine, theirs = (_of_cell(one, key) for one in seeds)
        if alike and mine and mine.keys() == theirs.keys():
            found[key], way = paired_by_seed(mine, theirs), "paired by seed (Student's t)"
        else:
            found[key], way = unpaired(_told(first), _told(second)), "unpaired (Welch's t)"
        ways[way] = ways.get(way, 0) + 1
    notes = [f"{count} of {len(found)} {way}" for way, count in ways.items()]
    keys = [[f"{key[0]} at {key[3]:g} ({key[2]})" for key in one] for one in scores]
    notes += only_in_one("scores of", *keys)
    floors = [key for key in found if key[3] >= 1]
    if floors:
        notes.append("Level 1 is the noise floor, the same trials for every scheme: not tested")
    # Else a handful of copies of one comparison would make every other p larger.
    tested = corrected({key: one for key, one in found.items() if key not in floors})
    untested = {key: found[key]._replace(p=math.nan) for key in floors}
    rows = difference_rows(_NAMES, {key: {**tested, **untested}[key] for key in found})
    return [Section("DiffROAR", "differences", _NAMES, rows, notes)]


def _scores(run: Run) -> dict[_Cell, dict[str, Any]]:
    rows = run.table("diffroar").to_pylist()
    return {(r["scheme"], r["learner"], r["variant"], r["level"]): r for r in rows}


def _told(row: dict[str, Any]) -> tuple[float, float | None, int]:
    return row["diffroar"], row["sd"], row["n"]


def _by_seed(run: Run) -> dict[tuple[str | None, str, str, float], dict[str, dict[int, float]]]:
    """Accuracy by cell, arm and seed; the cells of level 1 are of no scheme."""
    found: dict[tuple[str | None, str, str, float], dict[str, dict[int, float]]] = {}
    if not has_rows(run, "trials"):
        return found
    for row in run.table("trials").to_pylist():
        if row["seed"] is not None:
            cell = (row["scheme"], row["learner"], row["variant"], row["level"])
            found.setdefault(cell, {}).setdefault(row["arm"], {})[row["seed"]] = row["accuracy"]
    return found


def _of_cell(
    seeds: dict[tuple[str | None, str, str, float], dict[str, dict[int, float]]], key: _Cell
) -> dict[int, float]:
    """Top - bottom by seed; empty where there are no trials of both arms."""
    arms = seeds.get(key) or seeds.get((None, *key[1:])) or {}
    top, bottom = arms.get("top", {}), arms.get("bottom", {})
    return {seed: top[seed] - bottom[seed] for seed in top if seed in bottom}
