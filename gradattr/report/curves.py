"""DiffROAR curves: accuracy on the top-k coordinates minus accuracy on the bottom-k, against k.

One panel per data set (run, and architecture that is retrained), one line per scheme with its 95 %
interval as a band, and in grey how large a difference chance alone makes (the noise floor). Below,
if asked for, PredPower of both arms: what the differences are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RANDOM = ("#000000", ".")
_WIDTH, _HEIGHT, _LOWER = 5.0, 3.9, 2.7

#: Variants in the order in which a panel prefers them for its lines.
_MAIN = ("retrain", "no_retrain")
CONTROL = "mask_only"

_FLOOR = "noise floor (k = 100 %)"


@dataclass(frozen=True)
class Panel:
    """What one panel shows."""

    title: str
    variant: str
    scores: list[dict[str, Any]]
    """Rows of the table ``diffroar`` of the variant and of the control, by level."""
    power: list[dict[str, Any]]
    """Rows of the table ``pred_power`` of the variant, by level."""
    published: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    """Scheme -> level -> DiffROAR as somebody else found it, drawn as crosses."""

    @property
    def schemes(self) -> list[str]:
        return list(dict.fromkeys(row["scheme"] for row in self.scores))

    def line(self, scheme: str, variant: str) -> list[dict[str, Any]]:
        """The scheme's scores by ascending level."""
        return [row for row in self.scores if row["scheme"] == scheme and row["variant"] == variant]

    @property
    def noise_floor(self) -> float | None:
        found = (row["noise_floor"] for row in self.scores)
        return next((floor for floor in found if floor is not None), None)


def panels_of(
    run: Run, *, published: Mapping[str, Mapping[float, float]] | None = None
) -> list[Panel]:
    """A run's panels: one for each architecture that it retrains (or base model that it evaluates).
    ``published``: values to draw beside them (see ``Panel``).

    UsageError: the run is no DiffROAR audit.
    """
    if "diffroar" not in run.tables:
        raise UsageError(
            f"run {run.run_id} is of kind {run.manifest['kind']!r} and has no DiffROAR scores to "
            "plot; a manifest of kind 'diffroar' makes them"
        )
    scores = run.sql("SELECT * FROM diffroar ORDER BY level").to_pylist()
    power = run.sql("SELECT * FROM pred_power ORDER BY level").to_pylist()
    # The order of the manifest, which the tables keep and SQL does not.
    order = list(dict.fromkeys(run.table("diffroar")["scheme"].to_pylist()))
    scores.sort(key=lambda row: order.index(row["scheme"]))
    learners = list(dict.fromkeys(row["learner"] for row in scores))
    found = []
    for learner in learners:
        mine = [row for row in scores if row["learner"] == learner]
        variant = next(v for v in _MAIN if any(row["variant"] == v for row in mine))
        found.append(
            Panel(
                title=run.manifest["name"] + (f": {learner}" if len(learners) > 1 else ""),
                variant=variant,
                scores=[row for row in mine if row["variant"] in (variant, CONTROL)],
                power=[r for r in power if r["learner"] == learner and r["variant"] == variant],
                published=published or {},
            )
        )
    return found


def plot_curves(panels: Sequence[Panel], path: str | Path, *, pred_power: bool = False) -> Path:
    """Draw the panels side by side into a .png, .svg or .pdf file; return its path.

    ``pred_power`` adds a second row. UsageError: no panels, another kind of file, or one
    that cannot be written.
    """
    figure_kind(path)
    if not panels:
        raise UsageError("there is nothing to plot: name at least one run")
    return save_figure(curves_figure(panels, pred_power=pred_power), path)


def curves_figure(panels: Sequence[Panel], *, pred_power: bool = False) -> Figure:
    """The figure itself: one column per panel; with ``pred_power`` a second row."""
    height = _HEIGHT + (_LOWER if pred_power else 0)
    figure = new_figure(_WIDTH * len(panels), height, layout="constrained")
    ratios = [_HEIGHT, _LOWER] if pred_power else [_HEIGHT]
    # Curves beside each other are compared by eye: on one scale.
    axes = figure.subplots(
        len(ratios), len(panels), squeeze=False, height_ratios=ratios, sharey="row"
    )
    styles = _styles(panels)
    for column, panel in enumerate(panels):
        _difference_panel(axes[0][column], panel, styles)
        if pred_power:
            _power_panel(axes[1][column], panel, styles)
        axes[-1][column].set_xlabel("coordinates kept, k (%)")
    axes[0][0].set_ylabel("DiffROAR: accuracy, top-k − bottom-k")
    if pred_power:
        axes[1][0].set_ylabel("PredPower: test accuracy")
    legend_below(figure, panel_inches=_WIDTH)
    return figure


def _styles(panels: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each scheme, the same in every panel."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.schemes))
    coloured = [name for name in names if name != "random"]
    return {"random": _RANDOM} | dict(zip(coloured, line_styles(len(coloured)), strict=True))


def _difference_panel(axis: Any, panel: Panel, styles: dict[str, tuple[str, str]]) -> None:
    axis.axhline(0, color="0.4", linewidth=0.8, zorder=1)
    if panel.noise_floor is not None:
        floor = panel.noise_floor
        axis.axhspan(-floor, floor, color="0.87", linewidth=0, zorder=0, label=_FLOOR)
    for scheme in panel.schemes:
        _scheme_line(axis, panel.line(scheme, panel.variant), scheme, styles[scheme])
        control = panel.line(scheme, CONTROL)
        x, y = floats(control, "level") * 100, floats(control, "diffroar")
        axis.plot(x, y, color=styles[scheme][0], linestyle=":", linewidth=1.2)
        theirs = panel.published.get(scheme, {})
        levels = [100 * level for level in theirs]
        axis.plot(levels, list(theirs.values()), "x", color=styles[scheme][0], markersize=7)
    if any(row["variant"] == CONTROL for row in panel.scores):
        axis.plot([], [], color="0.3", linestyle=":", linewidth=1.2, label="trained on masks alone")
    if panel.published:
        axis.plot([], [], "x", color="0.3", markersize=7, label="published")
    _finish(axis)
    axis.set_title(_title(panel), fontsize=9)


def _scheme_line(
    axis: Any, rows: Sequence[dict[str, Any]], scheme: str, style: tuple[str, str]
) -> None:
    colour, marker = style
    x, y = floats(rows, "level") * 100, floats(rows, "diffroar")
    low, high = floats(rows, "low"), floats(rows, "high")
    axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.4, label=scheme)
    if scheme == "random":
        # Bars, because a grey band would look like the noise floor.
        axis.errorbar(x, y, np.stack([y - low, high - y]), color=colour, linewidth=1, capsize=2)
    else:
        axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _power_panel(axis: Any, panel: Panel, styles: dict[str, tuple[str, str]]) -> None:
    for scheme in panel.schemes:
        colour, marker = styles[scheme]
        for arm, line in (("top", "-"), ("bottom", "--")):
            rows = [r for r in panel.power if r["scheme"] == scheme and r["arm"] == arm]
            axis.plot(
                floats(rows, "level") * 100,
                floats(rows, "mean"),
                color=colour,
                marker=marker,
                markersize=3,
                linestyle=line,
                linewidth=1.2,
            )
    for arm, line in (("top-k kept", "-"), ("bottom-k kept", "--")):
        axis.plot([], [], color="0.3", linestyle=line, linewidth=1.2, label=arm)
    _finish(axis)


def _finish(axis: Any) -> None:
    axis.set_xlim(0, 101)
    axis.set_xticks(range(0, 101, 20))
    axis.tick_params(labelleft=True)
    clean_axis(axis, grid="y", labelsize=8)


def _title(panel: Panel) -> str:
    count = max((row["n"] for row in panel.scores), default=0)
    if panel.variant == "no_retrain":
        how = f"not retrained, {count:,} test images"
    else:
        how = f"{count} seed{'s' if count != 1 else ''}"
    if count > 1:
        how += ", 95 % intervals"
    if panel.noise_floor is not None and panel.variant != "no_retrain":
        how += f", noise floor ±{panel.noise_floor:.3f}"
    return f"{panel.title}\n{how}"
