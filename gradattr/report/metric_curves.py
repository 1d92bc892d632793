"""Curves of an evaluation: mean over the images with its 95 % interval as a band, a line per
method, a panel per curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradattr.report.figures import MethodStyle, clean_axis, floats, legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 4.0, 3.1
_COLUMNS = 3
#: Stages whose names are written; of more, every second, third, ...
_NAMES = 24
#: How the places of a curve are called, by the end of its name.
_PLACES = {
    "deletion": "pixels removed, highest first (%)",
    "insertion": "pixels inserted, highest first (%)",
    "morf": "pixels removed, highest first (%)",
    "lerf": "pixels removed, lowest first (%)",
    "morf_accuracy": "pixels removed, highest first (%)",
    "lerf_accuracy": "pixels removed, lowest first (%)",
}


def metric_curves_figure(
    rows: Sequence[Mapping[str, Any]], styles: Mapping[str, MethodStyle]
) -> Figure:
    """The figure itself, of rows of the table ``curves``."""
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    columns = min(_COLUMNS, len(curves))
    lines = math.ceil(len(curves) / columns)
    longest = max((len(row["label"]) for row in rows if row["label"]), default=0)
    height = _HEIGHT + 0.05 * longest
    figure = new_figure(_WIDTH * columns, height * lines + 0.3, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, curve in zip(axes.flat, curves, strict=False):
        _panel(axis, [row for row in rows if row["curve"] == curve], styles)
    for axis in axes.flat[len(curves) :]:
        axis.remove()
    legend_below(figure, panel_inches=_WIDTH)
    return figure


def _panel(axis: Any, rows: Sequence[Mapping[str, Any]], styles: Mapping[str, MethodStyle]) -> None:
    for method in styles:
        own = [row for row in rows if row["method"] == method]
        if any(row["mean"] is not None for row in own):
            _line(axis, sorted(own, key=lambda row: row["step"]), method, styles[method])
    _places(axis, rows)
    count = max(row["n"] for row in rows)
    images = f"{count:,} image{'s' if count != 1 else ''}"
    band = ", 95 % intervals" if any(row["low"] is not None for row in rows) else ""
    axis.set_title(f"{rows[0]['curve']}\n{images}{band}", fontsize=8.5)
    axis.set_ylabel("mean over images", fontsize=8)
    clean_axis(axis, grid="y", labelsize=7.5)


def _line(axis: Any, rows: Sequence[Mapping[str, Any]], method: str, style: MethodStyle) -> None:
    x = _x(rows)
    axis.plot(
        x, floats(rows, "mean"), color=style.colour, marker=style.marker, linestyle=style.dash,
        markersize=3.5, linewidth=1.3, label=method,
    )  # fmt: skip
    low, high = floats(rows, "low"), floats(rows, "high")
    axis.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)


def _x(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Per cent of the pixels; numbers of the stages where there are no places."""
    if rows[0]["x"] is None:
        return np.array([row["step"] for row in rows], np.float64)
    return 100 * floats(rows, "x")


def _places(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    curve = rows[0]["curve"]
    if rows[0]["x"] is not None:
        axis.set_xlim(0, 101)
        axis.set_xticks(range(0, 101, 20))
        known = [text for end, text in _PLACES.items() if curve.endswith(end)]
        axis.set_xlabel(known[0] if known else "pixels (%)", fontsize=8)
        return
    labels = {row["step"]: row["label"] or str(row["step"]) for row in rows}
    every = math.ceil(len(labels) / _NAMES)
    steps = sorted(labels)[::every]
    slanted = max(len(labels[step]) for step in steps) * len(steps) > 40
    axis.set_xticks(steps)
    axis.set_xticklabels(
        [labels[step] for step in steps],
        rotation=60 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
