"""A PNG of maps: one row per sample, the image first, then its map by every method; where methods
are many, one row per method and a column per sample.

Signed maps are drawn in a diverging palette that colour-blind readers can tell apart (blue is
against, red is for); maps that are never negative in an even one (white to black), from their
smallest value. Each map has its own scale, up to the 99.5th percentile of its |value|, so that one
loud pixel hides nothing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradattr.errors import UsageError
from gradattr.report.figures import new_figure
from gradattr.report.pictures import Pictures, class_name
from gradattr.report.results import Run

_PANEL_INCHES = 1.15
#: More methods than this stand below one another: nobody looks at what is wider than a screen.
_MANY = 12


def contact_sheet(run: Run, path: str | Path, *, samples: int = 8) -> Path:
    """Write a contact sheet of ``samples`` rows spread evenly over the data set; return its path.

    The images are read again from the data set that the run names. Raises UsageError if the run
    kept no maps.
    """
    rows = _choose(run, samples)
    found = Pictures(run, run.manifest["data"]).read([row["row"] for row in rows])
    images = [found[row["row"]].pixels for row in rows]
    maps = [[_map_or_none(run, row["sample_id"], method) for method in run.methods] for row in rows]
    target = Path(path)
    target.write_bytes(_draw(run, rows, images, maps))
    return target


def _choose(run: Run, samples: int) -> list[dict[str, Any]]:
    if "maps" not in run.tables:
        raise UsageError(f"run {run.run_id} has no maps to draw")
    good = run.sql(
        "SELECT row, sample_id, label, predicted FROM predictions WHERE status = 'ok' ORDER BY row"
    ).to_pylist()
    if not good:
        raise UsageError(f"run {run.run_id} has no good row to draw")
    places = np.linspace(0, len(good) - 1, min(samples, len(good))).round().astype(int)
    return [good[i] for i in places]


def _map_or_none(run: Run, sample_id: str, method: str) -> np.ndarray | None:
    try:
        return run.map(sample_id, method)
    except UsageError:
        return None


def _draw(
    run: Run,
    rows: Sequence[dict[str, Any]],
    images: Sequence[np.ndarray],
    maps: Sequence[Sequence[np.ndarray | None]],
) -> bytes:
    upright = len(run.methods) > _MANY
    lines, columns = len(rows), 1 + len(run.methods)
    if upright:
        lines, columns = columns, lines
    left, top = (1.55 if upright else 0.55), 0.6
    width, height = columns * _PANEL_INCHES + left + 0.05, lines * _PANEL_INCHES + top + 0.15
    figure = new_figure(width, height)
    axes = figure.subplots(lines, columns, squeeze=False)
    # By sample, then by method; the sheet's rows and columns change places where it is upright.
    panels = axes.T if upright else axes
    for line, image, row_maps in zip(panels, images, maps, strict=True):
        _panel(line[0], image, "gray", 0.0, 1.0)
        for axis, one in zip(line[1:], row_maps, strict=True):
            _map_panel(axis, one)
    for line, row in zip(panels, rows, strict=True):
        _title(line[0], _caption(row, run), on_top=upright)
    for axis, title in zip(panels[0], ["image", *run.methods], strict=True):
        if not (upright and title == "image"):
            _title(axis, title if upright else _broken(title), on_top=not upright, lying=upright)
    figure.suptitle(
        f"{run.run_id}: red speaks for the class, blue against; each map has its own scale",
        fontsize=7.5,
        x=0.01,
        y=1 - 0.1 / height,
        ha="left",
        va="top",
    )
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.05 / width,
        bottom=0.08 / height,
        top=1 - top / height,
        wspace=0.06,
        hspace=0.06,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _title(axis: Any, text: str, *, on_top: bool, lying: bool = False) -> None:
    if on_top:
        axis.set_title(text, fontsize=6.5)
    elif lying:
        axis.set_ylabel(text, fontsize=6.5, rotation=0, ha="right", va="center")
    else:
        axis.set_ylabel(text, fontsize=6.5)


def _broken(title: str) -> str:
    """'integrated_gradients' on two lines: panels are narrow."""
    return title.replace("_", "_\n", 1) if len(title) > 12 else title


def _caption(row: dict[str, Any], run: Run) -> str:
    if row["label"] is None or row["label"] == row["predicted"]:
        return class_name(run, row["predicted"])
    return f"{class_name(run, row['label'])}\ntaken for {class_name(run, row['predicted'])}"


def _map_panel(axis: Any, one: np.ndarray | None) -> None:
    if one is None:
        _panel(axis, np.ones((1, 1)), "gray", 0.0, 1.0)
        axis.text(
            0.5, 0.5, "no map", ha="center", va="center", fontsize=6, transform=axis.transAxes
        )
        return
    flat = one.sum(axis=0)
    limit = float(np.percentile(np.abs(flat), 99.5)) or 1.0
    if float(one.min()) >= 0:
        _panel(axis, flat, "gray_r", float(flat.min()), limit)
    else:
        _panel(axis, flat, "RdBu_r", -limit, limit)


def _panel(axis: Any, image: np.ndarray, palette: str, low: float, high: float) -> None:
    axis.imshow(image, cmap=palette, vmin=low, vmax=high, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.3)
