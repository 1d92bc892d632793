"""Scores of DiffROAR audits: the tables of ``gradattr show``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradattr.cli.output import console, number, print_table, print_text

#: What a table has at its left edge, and between two columns.
EDGE, _BETWEEN = 2, 3

_VARIANTS = {
    "retrain": "DiffROAR: accuracy on the top-k coordinates - accuracy on the bottom-k",
    "no_retrain": "The same without retraining: the base model evaluated on masked test images",
    "mask_only": "Control: accuracy of a training on the masks alone, top-k - bottom-k",
}


def print_scores(summary: dict[str, Any]) -> None:
    """An audit's trials, and its scores: a table per learner and variant, a line per level."""
    if not summary["diffroar"]:
        return
    print_table(
        "Trials",
        ["variant", "trials", "epochs", "lowest accuracy", "highest accuracy"],
        [
            [t["variant"], t["trials"], t["epochs"], number(t["lowest"]), number(t["highest"])]
            for t in summary["trials"]
        ],
        right=["trials", "epochs", "lowest accuracy", "highest accuracy"],
    )
    rows, power = summary["diffroar"], summary["pred_power"]
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    for learner in learners:
        for variant, title in _VARIANTS.items():
            found = [r for r in rows if (r["learner"], r["variant"]) == (learner, variant)]
            if found:
                named = f" (architecture of {learner})" if len(learners) > 1 else ""
                _print_variant(title + named, found, power)
    _print_explanation(rows)


def _print_explanation(rows: Sequence[dict[str, Any]]) -> None:
    judged = [row for row in rows if row["verdict"] not in ("floor", "control")]
    print_text(
        "Mean and 95 % interval. satisfies: the interval lies above 0, the order finds what the "
        "task needs; violates: below 0; no word: undecided."
    )
    if any(row["low"] is not None for row in judged):
        print_text(
            "Each interval is judged alone: if no order meant anything, chance would still decide "
            f"one in twenty, here {len(judged) / 20:.1f} of {len(judged)}. Trust what neighbouring "
            "levels agree on, not a single one."
        )
    if any(row["noise_floor"] is not None for row in judged):
        print_text(
            "Noise floor: what chance makes of the difference at k = 100 %, where both arms are "
            "the same data. A smaller difference means little, whatever its verdict."
        )
    if len(judged) < len([row for row in rows if row["verdict"] != "floor"]):
        print_text(
            "Control: a high accuracy says that the shape of the mask gives the class away by "
            "itself; a difference as large as the score's may explain the score."
        )


def _print_variant(title: str, rows: list[dict[str, Any]], power: Sequence[dict[str, Any]]) -> None:
    floor = next((row["noise_floor"] for row in rows if row["noise_floor"] is not None), None)
    count = max(row["n"] for row in rows)
    unit = "test image" if rows[0]["variant"] == "no_retrain" else "seed"
    title += f"; n = {count} {unit}{'s' if count != 1 else ''}"
    if floor is not None and unit == "seed":
        title += f"; noise floor {floor:.4f}"
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    levels = sorted({row["level"] for row in rows})
    cells = {(row["scheme"], row["level"]): _cell(row, power) for row in rows}
    names = [f"{100 * level:g} %" for level in levels]
    widths = {
        scheme: max(len(text) for text in (scheme, *(cells.get((scheme, k), "") for k in levels)))
        for scheme in schemes
    }
    for part in abreast(widths, console().width - EDGE - max(map(len, names))):
        print_table(
            title,
            ["k", *part],
            [
                [name, *(cells.get((scheme, level), "") for scheme in part)]
                for name, level in zip(names, levels, strict=True)
            ],
            right=["k"],
        )
        title = ""


def abreast(widths: dict[str, int], room: int) -> list[list[str]]:
    """Columns in groups that fit into ``room`` characters; one alone where none fits."""
    groups: list[list[str]] = []
    left = 0
    for name, width in widths.items():
        if not groups or left < width + _BETWEEN:
            groups.append([])
            left = room
        groups[-1].append(name)
        left -= width + _BETWEEN
    return groups


def _cell(row: dict[str, Any], power: Sequence[dict[str, Any]]) -> str:
    """'+0.1213 [+0.110, +0.133] satisfies'; of the control '0.9722 - 0.9361 = +0.0361'."""
    mean = f"{row['diffroar']:+.4f}"
    if row["variant"] == "mask_only":
        keys = ("scheme", "learner", "variant", "level")
        arms = {p["arm"]: p["mean"] for p in power if all(p[key] == row[key] for key in keys)}
        return f"{arms['top']:.4f} - {arms['bottom']:.4f} = {mean}"
    if row["low"] is None:
        return mean
    verdict = "" if row["verdict"] == "undecided" else f" {row['verdict']}"
    return f"{mean} [{_end(row['low'])}, {_end(row['high'])}]{verdict}"


def _end(value: float) -> str:
    """Three decimals, but never a zero that is none: a verdict hangs on it."""
    return f"{value:+.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:+.1g}"
