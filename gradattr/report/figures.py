"""What every figure has in common: colours, a legend below the panels, and how it is written."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradattr.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind readers can tell apart; black is for 'random'.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
#: Inches of a row of the legend, and rows for which there is room.
_LEGEND_ROW, _LEGEND_ROWS = 0.18, 2
KINDS = ("png", "svg", "pdf")
_DASHES = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))


class MethodStyle(NamedTuple):
    """How a method's lines and points are drawn."""

    colour: str
    marker: str
    dash: Any
    """As matplotlib takes it."""


def new_figure(width: float, height: float, layout: Any = None) -> Figure:
    """An empty figure of so many inches."""
    # Figure and not pyplot: no global state, no window system, safe in threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def line_styles(count: int) -> list[tuple[str, str]]:
    """A colour and a marker for each of so many lines."""
    return [
        (_COLOURS[i % len(_COLOURS)], _MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)])
        for i in range(count)
    ]


def method_styles(methods: Sequence[str], random: str | None = None) -> dict[str, MethodStyle]:
    """How each method is drawn, in every figure of a run: colours come again after seven methods,
    with another marker and another dash, up to 28 that differ. ``random`` is black, and dotted."""
    coloured = [method for method in methods if method != random]
    found = {
        method: MethodStyle(*style, _DASHES[place // len(_COLOURS) % len(_DASHES)])
        for place, (method, style) in enumerate(
            zip(coloured, line_styles(len(coloured)), strict=True)
        )
    }
    return {method: found.get(method, MethodStyle("#000000", ".", ":")) for method in methods}


def floats(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A column of a table's rows as floats; NaN, which is not drawn, for null."""
    return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64)


def clean_axis(axis: Any, *, grid: str, labelsize: float) -> None:
    """Small ticks, faint lines in one direction (or 'both') behind everything, and no box."""
    axis.tick_params(labelsize=labelsize)
    axis.grid(axis=grid, color="0.92", linewidth=0.6, zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def figure_kind(path: str | Path) -> str:
    """'png', 'svg' or 'pdf', by the suffix. UsageError: another one."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise UsageError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    return kind


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, the same bytes whenever it is drawn; return its path.

    UsageError: another kind of file, or one that cannot be written.
    """
    import matplotlib

    target, kind = Path(path), figure_kind(path)
    buffer = io.BytesIO()
    # No date, and ids of SVG elements that do not change.
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context({"svg.hashsalt": "gradattr"}):
        figure.savefig(buffer, format=kind, metadata=metadata)
    try:
        target.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from None
    return target


def legend_below(figure: Figure, *, panel_inches: float) -> None:
    """One for all panels and below them, where it hides nothing; as wide as the figure allows, and
    the figure as high as it needs."""
    found: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    if not found:
        return
    width = figure.get_figwidth()
    canvas: Any = figure.canvas
    for columns in range(min(len(found), int(3 * width / panel_inches)), 0, -1):
        legend = figure.legend(
            list(found.values()),
            list(found.keys()),
            loc="outside lower center",
            ncols=columns,
            fontsize=8,
            frameon=False,
        )
        needed = legend.get_window_extent(canvas.get_renderer()).width / figure.dpi
        if needed <= width or columns == 1:
            break
        legend.remove()
    figure.set_figwidth(max(width, needed))
    more = max(0, math.ceil(len(found) / columns) - _LEGEND_ROWS)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * more)
