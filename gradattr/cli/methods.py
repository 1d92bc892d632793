"""``gradattr methods``: all of them on a screen, or all there is to say of one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict

from gradattr.attribution.catalogue import catalogue, method_info
from gradattr.attribution.catalogue_entry import MethodInfo
from gradattr.cli.output import print_json, print_table, print_text
from gradattr.errors import UsageError


def list_methods(name: str | None, as_json: bool) -> None:
    """Print the catalogue, or its entry ``name``. UsageError, with the nearest names, if there is
    none."""
    entries = catalogue() if name is None else (_entry(name),)
    if as_json:
        print_json([asdict(entry) for entry in entries])
    elif name is None:
        print_table(
            "Methods, and their cost in model evaluations per image (a forward pass, with its "
            "backward pass if there is one)",
            ["name", "cost", "formula"],
            [[entry.name, _cost(entry), entry.formula] for entry in entries],
        )
        print_text(
            "gradattr methods NAME: its source, its parameters, what it needs of a model, and "
            "where it says less than it seems to."
        )
    else:
        _print_entry(entries[0])


def _entry(name: str) -> MethodInfo:
    names = [entry.name for entry in catalogue()]
    if name in names:
        return method_info(name)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UsageError(f"method {name!r} does not exist{hint} ('gradattr methods' lists them)")


def _cost(entry: MethodInfo) -> str:
    return "by image" if entry.cost is None else str(entry.cost).replace(" * ", " x ")


def _print_entry(entry: MethodInfo) -> None:
    print_text(f"{entry.name}: {entry.formula}")
    print_table(
        "",
        ["what", "of it"],
        [
            ["source", entry.source],
            ["cost", entry.cost_text],
            *_rows("needs", entry.needs or ("nothing",)),
            ["adds up", entry.completeness_text],
            *_rows("says less", entry.degenerates),
        ],
    )
    if entry.parameters:
        print_table(
            "Parameters",
            ["name", "default", "meaning"],
            [[p.name, "" if p.default is None else p.default, p.meaning] for p in entry.parameters],
        )
    print_text("In formulas: x input, f the score, g its gradient, x' baseline, E mean over steps.")


def _rows(title: str, texts: Sequence[str]) -> list[list[str]]:
    return [["" if place else title, text] for place, text in enumerate(texts)]
