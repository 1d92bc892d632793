"""The figures of an evaluation: metrics with their intervals, curves, agreement of methods.

Points with whiskers, not bars: a bar claims that 0 means nothing, and of most metrics it does not.
A method looks the same in every figure; 'random', what chance gives, is black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradattr.errors import UsageError
from gradattr.report.agreement_figure import agreement_figure
from gradattr.report.evaluation_summary import in_order, rows_of
from gradattr.report.figures import (
    MethodStyle,
    clean_axis,
    figure_kind,
    method_styles,
    new_figure,
    save_figure,
)
from gradattr.report.metric_curves import metric_curves_figure
from gradattr.report.results import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figure -> the table that it shows, and what makes that table.
_TABLES = {
    "curves": ("curves", "none of its metrics has a curve; deletion, insertion and road do"),
    "metrics": ("summary", "no metric gave a number"),
    "agreement": ("agreement", "its manifest has no metric 'agreement'"),
}
FIGURES = tuple(_TABLES)

#: Inches: of a panel, of a figure at least, of a method's line, of what is around the lines.
_WIDTH, _LEAST, _LINE, _AROUND = 2.5, 4.6, 0.19, 0.95
#: Panels beside each other, for up to so many metrics.
_COLUMNS = {12: 4, 20: 5, math.inf: 6}
#: Characters of a panel's title on one line.
_TITLE = 34
#: Where means differ by more than this factor, the axis is logarithmic; not where they may be
#: correlations or shares, of which one near 0 is no feat.
_WIDE, _SHARES = 100, (0.1, 1.0)

_DIRECTION = {True: "higher is better →", False: "← lower is better", None: "neither is better"}


def missing_figures(run: Run) -> dict[str, str]:
    """Figures that a run does not have, each with the reason. UsageError: it is no evaluation."""
    if run.manifest["kind"] != "evaluate":
        raise UsageError(
            f"run {run.run_id} is of kind {run.manifest['kind']!r}; these are the figures of kind "
            "'evaluate'"
        )
    return {name: why for name, (table, why) in _TABLES.items() if not rows_of(run, table)}


def plot_evaluation(run: Run, figure: str, path: str | Path) -> Path:
    """Draw one of ``FIGURES`` into a .png, .svg or .pdf file; return its path.

    UsageError: there is no such figure, the run has none, another kind of file, or one that cannot
    be written.
    """
    figure_kind(path)
    if figure not in FIGURES:
        raise UsageError(f"figure {figure!r}: expected {', '.join(FIGURES)}")
    missing = missing_figures(run)
    if figure in missing:
        raise UsageError(f"run {run.run_id} has no figure '{figure}': {missing[figure]}")
    styles = styles_of(run)
    if figure == "curves":
        return save_figure(metric_curves_figure(rows_of(run, "curves"), styles), path)
    if figure == "metrics":
        return save_figure(metrics_figure(rows_of(run, "summary"), styles), path)
    return save_figure(agreement_figure(rows_of(run, "agreement"), list(styles)), path)


def styles_of(run: Run) -> dict[str, MethodStyle]:
    """Of every method that the run judged, in the manifest's order."""
    tables = ("summary", "curves")
    named = [row["method"] for table in tables for row in rows_of(run, table)]
    named += [row[side] for row in rows_of(run, "agreement") for side in ("first", "second")]
    kinds = {method["id"] or method["name"]: method["name"] for method in run.manifest["methods"]}
    methods = in_order(run, named)
    random = next((m for m in methods if "random" in (m, kinds.get(m))), None)
    return method_styles(methods, random)


def metrics_figure(rows: Sequence[Mapping[str, Any]], styles: Mapping[str, MethodStyle]) -> Figure:
    """The figure itself, of rows of the table ``summary``: a panel per metric, a method a line."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    columns = min(next(n for most, n in _COLUMNS.items() if len(metrics) <= most), len(metrics))
    lines = math.ceil(len(metrics) / columns)
    names = 0.075 * max(map(len, styles))
    height = _LINE * len(styles) + _AROUND
    width = max(_WIDTH * columns + names, _LEAST)
    figure = new_figure(width, height * lines, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        _metric_panel(axis, [row for row in rows if row["metric"] == metric], styles)
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    images = sorted({row["n"] + row["missing"] for row in rows})
    count = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    count += " image" if images == [1] else " images"
    band = ", 95 % intervals" if any(row["low"] is not None for row in rows) else ""
    chance = "; dotted: that of random maps" if _random(styles) else ""
    figure.suptitle(f"Means over {count}{band}{chance}", fontsize=9)
    return figure


def _metric_panel(
    axis: Any, rows: Sequence[Mapping[str, Any]], styles: Mapping[str, MethodStyle]
) -> None:
    order = list(styles)
    found = {row["method"]: row for row in rows}
    present = {method: row for method, row in found.items() if row["mean"] is not None}
    chance = present.get(_random(styles) or "")
    if chance is not None:
        axis.axvline(chance["mean"], color="0.6", linestyle=":", linewidth=0.9, zorder=1)
    for method, row in present.items():
        style, place = styles[method], order.index(method)
        ends = [[0.0], [0.0]]
        if row["low"] is not None:
            ends = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(
            [row["mean"]], [place], xerr=ends, color=style.colour, marker=style.marker,
            markersize=6 if style.marker == "." else 4.5, linewidth=1.2, capsize=2, zorder=3,
        )  # fmt: skip
    _scale(axis, list(present.values()))
    for method in order:
        if method not in present:
            text = "no value" if method in found else "does not apply"
            axis.text(
                0.5, order.index(method), text, fontsize=6, color="0.55", ha="center",
                va="center", transform=axis.get_yaxis_transform(),
            )  # fmt: skip
    axis.set_yticks(range(len(order)), order)
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_title(_broken(rows[0]["metric"]), fontsize=8.5)
    axis.set_xlabel(_DIRECTION[rows[0]["higher_is_better"]], fontsize=7.5, color="0.35")
    clean_axis(axis, grid="both", labelsize=7.5)


def _scale(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Logarithmic where methods differ by orders of magnitude; else as many ticks as fit."""
    from matplotlib.ticker import MaxNLocator

    means = [row["mean"] for row in rows]
    if not means:
        return
    least, most = min(means), max(means)
    share = _SHARES[0] <= most <= _SHARES[1]
    if least > 0 and most > _WIDE * least and not share:
        axis.set_xscale("log")
        return
    axis.margins(x=0.08)
    low, high = axis.get_xlim()
    decimals = max(0, 1 - math.floor(math.log10(high - low)))
    letters = max(len(f"{end:.{decimals}f}") for end in (low, high))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=max(2, 8 - letters)))


def _broken(title: str) -> str:
    """A long title on two lines, broken at the '_' that is nearest to its middle."""
    places = [place for place, letter in enumerate(title) if letter in "_-."]
    if len(title) <= _TITLE or not places:
        return title
    at = min(places, key=lambda place: abs(place - len(title) / 2)) + 1
    return f"{title[:at]}\n{title[at:]}"


def _random(styles: Mapping[str, MethodStyle]) -> str | None:
    return next((method for method, style in styles.items() if style.colour == "#000000"), None)
