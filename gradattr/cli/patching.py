"""Runs of kind patching: the tables of ``gradattr show``."""

from __future__ import annotations

from typing import Any

from gradattr.cli.output import number, print_table, print_text

_MEASURES = {"l2": "l2 distance", "relative_l2": "relative l2", "spearman": "Spearman"}


def print_patching(summary: dict[str, Any]) -> None:
    """Its baselines, the faithfulness of the estimates, and where effects are large."""
    found = summary["patching"]
    if found is None:
        return
    _print_baselines(found["baselines"])
    _print_faithfulness(found["faithfulness"])
    _print_sites(found["sites"])


def _print_baselines(rows: list[dict[str, Any]]) -> None:
    titles = ["prompts", "confidence", "at the baseline", "distance"]
    columns = ("confidence", "baseline_confidence", "distance")
    print_table(
        "Baselines",
        ["baseline", *titles],
        [[row["baseline"], row["prompts"], *(number(row[c]) for c in columns)] for row in rows],
        right=titles,
    )
    print_text("confidence: mean probability of the answer, at the prompt and at the baseline")


def _print_faithfulness(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    cells = {(row["baseline"], row["method"], row["measure"]): row for row in rows}
    pairs = dict.fromkeys((row["baseline"], row["method"]) for row in rows)
    titles = list(_MEASURES.values())
    print_table(
        "Faithfulness to activation patching, over all sites and positions of a prompt",
        ["baseline", "method", "n", *titles],
        [
            [
                *pair,
                max(row["n"] for row in rows if (row["baseline"], row["method"]) == pair),
                *(_interval(cells.get((*pair, measure))) for measure in _MEASURES),
            ]
            for pair in pairs
        ],
        right=["n", *titles],
    )
    print_text(
        "Mean and 95 % interval over prompts. A baseline at which the answer hardly changes has a "
        "small l2 distance for nothing: read it beside the confidence at the baseline, and beside "
        "the relative l2, where 1 is what an estimate of 0 everywhere gets."
    )


def _interval(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["low"] is None:
        return number(row["mean"])
    return f"{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def _print_sites(found: dict[str, Any]) -> None:
    lines = found["baselines"]
    sites = list(dict.fromkeys(row["site"] for rows in lines.values() for row in rows))
    if not sites:
        return
    sizes = {(name, row["site"]): row["size"] for name, rows in lines.items() for row in rows}
    print_table(
        f"Mean |effect| of a position, by {found['method']}",
        ["site", *lines],
        [
            ["embedding" if site == 0 else f"block {site}"]
            + [number(sizes.get((name, site))) for name in lines]
            for site in sites
        ],
        right=list(lines),
    )
