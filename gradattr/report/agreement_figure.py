"""How alike the maps of methods are: a matrix per measure, every cell with its mean over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradattr.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches: of a cell, of a matrix at least, of a letter, of what stands around the matrices.
_CELL, _LEAST, _LETTER = 0.36, 1.7, 0.06
_ABOVE, _BETWEEN, _BAR = 0.8, 0.7, 0.1
#: Characters of a label.
_LETTERS = 31
_TITLES = {
    "spearman": "rank correlation\nof values",
    "spearman_magnitude": "rank correlation\nof magnitudes",
    "top_overlap": "share of the highest pixels\nthat both have",
}
#: Perceptually even, and readable without colours. Correlations below 0 by more than chance makes
#: need a scale that goes there.
_COLOURS, _CHANCE = "viridis", -0.1


def agreement_figure(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Figure:
    """The figure itself, of rows of the table ``agreement``; methods in this order."""
    measures = [name for name in _TITLES if any(row["measure"] == name for row in rows)]
    compared = {row[side] for row in rows for side in ("first", "second")}
    order = [method for method in methods if method in compared]
    side = max(_CELL * len(order), _LEAST)
    labels = [_shortened(method) for method in order]
    names = _LETTER * max(map(len, labels)) + 0.25
    width = names + (side + _BETWEEN) * len(measures)
    below = 0.87 * (names - 0.25) + 0.25  # slanted by 60 degrees
    height = below + side + _ABOVE
    # By hand: automatic layouts leave gaps around matrices, whose cells must be square.
    figure = new_figure(width, height)
    for place, measure in enumerate(measures):
        left, low = (names + (side + _BETWEEN) * place) / width, below / height
        axis = figure.add_axes((left, low, side / width, side / height))
        own = [row for row in rows if row["measure"] == measure]
        image = _matrix(axis, _square(own, order))
        edge = left + (side + 0.07) / width
        bar = figure.colorbar(image, cax=figure.add_axes((edge, low, _BAR / width, side / height)))
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        axis.set_title(_TITLES[measure], fontsize=8.5)
        axis.set_xticks(range(len(order)), labels, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(order)), labels if place == 0 else [""] * len(order))
        axis.tick_params(length=0, labelsize=7.5)
    count = max(row["n"] for row in rows)
    text = f"Agreement of methods, mean over {count:,} image{'s' if count != 1 else ''}"
    figure.suptitle(text, fontsize=9, x=0.12 / width, y=1 - 0.1 / height, ha="left", va="top")
    return figure


def _shortened(name: str) -> str:
    """Both ends of a long name: labels of columns are as high as they are long."""
    if len(name) <= _LETTERS:
        return name
    end = (_LETTERS - 1) // 2
    return f"{name[:end]}…{name[-end:]}"


def _square(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> np.ndarray:
    """(m, m), NaN on the diagonal and where there is no value."""
    place = {method: number for number, method in enumerate(order)}
    found = np.full((len(order), len(order)), np.nan)
    for row in rows:
        if row["mean"] is not None:
            a, b = place[row["first"]], place[row["second"]]
            found[a, b] = found[b, a] = row["mean"]
    return found


def _matrix(axis: Any, values: np.ndarray) -> Any:
    from matplotlib import colormaps

    below = bool((values < _CHANCE).any())
    colours = colormaps[_COLOURS].with_extremes(bad="0.94")
    image = axis.imshow(values, cmap=colours, vmin=-1 if below else 0, vmax=1)
    for (line, column), value in np.ndenumerate(values):
        if line == column:
            continue
        if np.isnan(value):
            axis.text(column, line, "none", fontsize=6, ha="center", va="center", color="0.5")
            continue
        text = f"{value:.2f}".replace("-0.00", "0.00")
        red, green, blue, _ = colours(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axis.text(
            column, line, text, fontsize=6.5, ha="center", va="center",
            color="white" if dark else "black",
        )  # fmt: skip
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image
