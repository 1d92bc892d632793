"""Curves of the insertion and deletion tests: what a step on the pixels that a map ranks highest
does to the query's loss, minus what a step on as many random pixels does.

One panel per test, side and number of steps; one line per score and map, with its 95 % interval
over pairs as a band. Of helpful images, below 0 is better than chance; of harmful ones, above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.errors import UsageError
from gradattr.report.figures import (
    clean_axis,
    figure_kind,
    floats,
    legend_below,
    line_styles,
    new_figure,
    save_figure,
)
from gradattr.report.results import Run
from gradattr.report.training_summary import in_manifest_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 4.6, 3.7
_PANEL = ("test", "side", "steps")
_WHICH = {"insertion": "only these pixels kept", "deletion": "these pixels removed"}
_BETTER = {"helpful": "below 0", "harmful": "above 0"}


def has_insertion(run: Run) -> bool:
    """Whether the run tested its maps."""
    return "tfa_summary" in run.tables


def plot_insertion(run: Run, path: str | Path) -> Path:
    """Draw the tests of a run's maps into a .png, .svg or .pdf file; return its path.

    UsageError: the run has none, another kind of file, or one that cannot be written.
    """
    figure_kind(path)
    return save_figure(insertion_figure(run), path)


def insertion_figure(run: Run) -> Figure:
    """The figure itself. UsageError: the run tested nothing."""
    if not has_insertion(run):
        raise UsageError(
            f"run {run.run_id} has no insertion test; a manifest of kind 'tfa' with 'insertion' "
            "makes one"
        )
    rows = in_manifest_order(run, run.table("tfa_summary").to_pylist())
    panels = list(dict.fromkeys(tuple(row[key] for key in _PANEL) for row in rows))
    lines = list(dict.fromkeys((row["method"], row["map_method"]) for row in rows))
    styles = dict(zip(lines, line_styles(len(lines)), strict=True))
    figure = new_figure(_WIDTH * len(panels), _HEIGHT, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        own = [row for row in rows if tuple(row[key] for key in _PANEL) == panel]
        for method, map_method in lines:
            found = [r for r in own if (r["method"], r["map_method"]) == (method, map_method)]
            _line(axis, found, f"{method}, {map_method}", styles[method, map_method])
        _finish(axis, own)
    axes[0].set_ylabel("change of the query's loss (nats),\nby the map − at random", fontsize=9)
    legend_below(figure, panel_inches=_WIDTH)
    return figure


def _line(axis: Any, rows: Sequence[dict[str, Any]], label: str, style: tuple[str, str]) -> None:
    rows = sorted(rows, key=lambda row: row["level"])
    x, mean = 100 * floats(rows, "level"), floats(rows, "difference")
    low, high = floats(rows, "low"), floats(rows, "high")
    colour, marker = style
    axis.plot(x, mean, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label)
    axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _finish(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    test, side, steps = (rows[0][key] for key in _PANEL)
    count = max(row["n"] for row in rows)
    how = f"{steps} step{'s' if steps != 1 else ''} of SGD, {_WHICH[test]}"
    band = ", 95 % intervals" if any(row["low"] is not None for row in rows) else ""
    title = f"{test}, {side} images ({count:,} pairs{band})"
    hint = f"better than chance: {_BETTER[side]}" if test == "insertion" else ""
    axis.set_title(f"{title}\n{how}", fontsize=8.5)
    axis.axhline(0, color="0.4", linewidth=0.8, zorder=1)
    if hint:
        at = {"helpful": (0.98, 0.03, "bottom"), "harmful": (0.98, 0.97, "top")}[side]
        axis.text(
            at[0], at[1], hint, va=at[2], ha="right", fontsize=7.5, color="0.4",
            transform=axis.transAxes,
        )  # fmt: skip
    axis.set_xlim(0, 101)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel(f"pixels {'kept' if test == 'insertion' else 'removed'} (%)", fontsize=9)
    clean_axis(axis, grid="y", labelsize=8)
