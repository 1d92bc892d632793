"""Scores of DiffROAR audits: the tables of ``gradattr show``, and ``gradattr plot``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradattr.cli.locate import locate
from gradattr.cli.output import number, print_table

#: Schemes beside each other in one table: as many as fit on a line of 120 characters.
_ABREAST = 3

_VARIANTS = {
    "retrain": "DiffROAR: accuracy on the top-k coordinates - accuracy on the bottom-k",
    "no_retrain": "The same without retraining: the base model evaluated on masked test images",
    "mask_only": "Control: trained on the masks alone (what the shape of a mask gives away)",
}


def plot_runs(
    runs: Sequence[str], output: str, pred_power: bool, store: str, endpoint_url: str | None
) -> None:
    from gradattr.report.curves import panels_of, plot_curves
    from gradattr.report.results import Run

    panels = [
        panel for name in runs for panel in panels_of(Run(*locate(name, store, endpoint_url)))
    ]
    print(f"Curves: {plot_curves(panels, output, pred_power=pred_power)}")


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
    rows = summary["diffroar"]
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    for learner in learners:
        for variant, title in _VARIANTS.items():
            found = [r for r in rows if (r["learner"], r["variant"]) == (learner, variant)]
            if found:
                named = f" (architecture of {learner})" if len(learners) > 1 else ""
                _print_variant(title + named, found)
    print(
        "mean and 95 % interval; a verdict says that the interval lies above 0 (satisfies) or "
        "below 0 (violates);\nno word: undecided. Each cell is judged alone: chance decides one in "
        "twenty."
    )


def _print_variant(title: str, rows: list[dict[str, Any]]) -> None:
    floor = next((row["noise_floor"] for row in rows if row["noise_floor"] is not None), None)
    count = max(row["n"] for row in rows)
    unit = "test images" if rows[0]["variant"] == "no_retrain" else "seeds"
    title += f"; n = {count} {unit}"
    if floor is not None and unit == "seeds":
        title += f"; noise floor {floor:.4f}"
    schemes = list(dict.fromkeys(row["scheme"] for row in rows))
    levels = sorted({row["level"] for row in rows})
    cells = {(row["scheme"], row["level"]): _cell(row) for row in rows}
    for first in range(0, len(schemes), _ABREAST):
        part = schemes[first : first + _ABREAST]
        print_table(
            title if first == 0 else "",
            ["k", *part],
            [
                [f"{100 * level:g} %", *(cells.get((scheme, level), "") for scheme in part)]
                for level in levels
            ],
            right=["k"],
        )


def _cell(row: dict[str, Any]) -> str:
    """'+0.1213 [+0.1101, +0.1325] satisfies'"""
    mean = f"{row['diffroar']:+.4f}"
    if row["low"] is None:
        return mean
    verdict = "" if row["verdict"] == "undecided" else f" {row['verdict']}"
    return f"{mean} [{row['low']:+.3f}, {row['high']:+.3f}]{verdict}"
