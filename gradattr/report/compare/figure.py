"""A comparison drawn: every difference B - A with its interval, a panel for each measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.errors import UsageError
from gradattr.report.compare.runs import Comparison
from gradattr.report.compare.sections import Row, Section
from gradattr.report.figures import clean_axis, figure_kind, floats, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns that give a panel of its own, because their values have units of their own.
_PANEL = ("metric", "measure", "variant", "test")
#: Rows of a panel, at most; the table has all.
_ROWS = 40
#: Inches: of a panel, of a row, of what is around the rows. Panels beside each other, at most.
_WIDTH, _LINE, _AROUND, _COLUMNS = 4.2, 0.2, 0.85, 3
#: Told apart from 0 in blue and filled, from chance in grey and hollow: not by colour alone.
_TOLD, _CHANCE, _ALPHA = "#0072B2", "0.5", 0.05

_Panel = tuple[str, tuple[str, ...], list[Row]]


def plot_comparison(found: Comparison, path: str | Path) -> Path:
    """Draw the differences into a .png, .svg or .pdf file; return its path.

    UsageError: none has an interval, another kind of file, or one that cannot be written.
    """
    figure_kind(path)
    panels = [panel for section in found.sections for panel in _panels(section)]
    if not panels:
        raise UsageError(
            f"{found.a.run_id} and {found.b.run_id} have no difference with an interval to draw"
        )
    return save_figure(_figure(found, panels), path)


def _panels(section: Section) -> list[_Panel]:
    """Title, columns that name a row, and the rows that have an interval, by measure."""
    if section.kind != "differences":
        return []
    key = next((name for name in _PANEL if name in section.names), None)
    names = tuple(name for name in section.names if name != key)
    rows = [row for row in section.rows if row["low"] is not None]
    grouped: dict[Any, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row[key] if key else None, []).append(row)
    return [
        (section.title if value is None else f"{section.title}: {value}", names, group)
        for value, group in grouped.items()
    ]


def _figure(found: Comparison, panels: Sequence[_Panel]) -> Figure:
    columns = min(len(panels), _COLUMNS)
    count = math.ceil(len(panels) / columns)
    lines = [
        max(min(_ROWS, len(rows)) for _, _, rows in panels[first : first + columns])
        for first in range(0, len(panels), columns)
    ]
    heights = [_AROUND + _LINE * most for most in lines]
    figure = new_figure(_WIDTH * columns, sum(heights) + 0.4, "constrained")
    axes = figure.subplots(count, columns, squeeze=False, height_ratios=heights).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, *panel)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    # Not as mathematics: a run's name may hold anything.
    title = (
        f"A: {found.a.run_id}\nB: {found.b.run_id}\n"
        "B - A with 95 % interval; filled: told apart from 0 (corrected p < 0.05)"
    )
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def _draw(axis: Axes, title: str, names: tuple[str, ...], rows: list[Row]) -> None:
    shown = rows[:_ROWS]
    more = f" (first {_ROWS} of {len(rows)})" if len(rows) > _ROWS else ""
    places = list(range(len(shown)))
    centre, low, high = (floats(shown, name) for name in ("difference", "low", "high"))
    told = [row["p_corrected"] is not None and row["p_corrected"] < _ALPHA for row in shown]
    axis.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    for place, sure in zip(places, told, strict=True):
        colour = _TOLD if sure else _CHANCE
        axis.plot([low[place], high[place]], [place, place], color=colour, linewidth=1.2, zorder=2)
        face = colour if sure else "white"
        axis.plot(
            [centre[place]],
            [place],
            marker="o",
            markersize=4.5,
            color=colour,
            markerfacecolor=face,
            zorder=3,
        )
    labels = [", ".join(_label(row[name]) for name in names) for row in shown]
    axis.set_yticks(places, labels if any(labels) else [""] * len(shown))
    for text in axis.get_yticklabels():
        text.set_parse_math(False)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_title(f"{title}{more}", fontsize=8, loc="left", parse_math=False)
    axis.locator_params(axis="x", nbins=5)
    clean_axis(axis, grid="x", labelsize=7)


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
