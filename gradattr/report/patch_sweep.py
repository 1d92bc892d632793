"""The patch sweep: what a shortcut does to accuracies, and how much of the maps lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradattr.data.patch import Painter
from gradattr.data.registry import index_data
from gradattr.errors import UsageError
from gradattr.manifest.data_base import Patch
from gradattr.manifest.tfa import TfaManifest
from gradattr.metrics.leakage import leakage
from gradattr.report.figures import line_styles, new_figure, save_figure
from gradattr.report.results import Run
from gradattr.storage.maps import decode_map


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep; shares and accuracies from 0 to 1."""

    fraction: float
    """Of the patched class's training images."""
    accuracy: float | None
    """On the test data as it is."""
    own_class: float | None
    """On test images of the patched class, without a patch."""
    other_class: float | None
    """On test images of the other class, with the patch."""
    patched: float
    """Share of patched images among the most harmful ones."""
    shares: dict[str, float]
    """Map -> share of the highest-ranked pixels of the most harmful images that lie where the patch
    is, or would be: mean over all pairs."""
    area: float
    """What chance gives to the shares."""


def sweep_point(run: Run, manifest: TfaManifest) -> SweepPoint:
    """What a run of a manifest with patched training and query data says. UsageError if either
    has no patch, or nothing was mapped."""
    patch, other = manifest.data.patch, manifest.queries.data.patch
    if patch is None or other is None:
        raise UsageError(f"run {run.run_id}: 'data' and 'queries.data' need a patch")
    shares, area = _shares(run, patch, manifest.localisation_level)
    return SweepPoint(
        fraction=patch.fraction,
        accuracy=_one(run, "SELECT last(test_accuracy ORDER BY epoch) FROM training"),
        own_class=_accuracy(run, _label(manifest, patch), patched=False),
        other_class=_accuracy(run, _label(manifest, other), patched=True),
        patched=_one(run, _PATCHED) or 0.0,
        shares=shares,
        area=area,
    )


_PATCHED = "SELECT avg(CAST(marked_area > 0 AS DOUBLE)) FROM tfa_pairs WHERE side = 'harmful'"


def _label(manifest: TfaManifest, patch: Patch) -> int:
    data = manifest.data if patch is manifest.data.patch else manifest.queries.data
    painter = Painter.of(index_data(data).files[0])
    if painter is None or painter.label is None:
        raise UsageError("the patch is of no class; state patch.class")
    return painter.label


def _accuracy(run: Run, label: int, *, patched: bool) -> float | None:
    return _one(
        run,
        "SELECT avg(CAST(correct AS DOUBLE)) FROM predictions "
        f"WHERE label = {label} AND patched = {patched}",
    )


def _one(run: Run, query: str) -> float | None:
    table = run.sql(query)
    value = table.column(0)[0].as_py()
    return None if value is None else float(value)


def _shares(run: Run, patch: Patch, level: float) -> tuple[dict[str, float], float]:
    """By map, over the harmful images, whether they are patched or not."""
    choice = run.manifest["store"]["maps"]
    found: dict[str, list[np.ndarray]] = {}
    for row in run.table("tfa_maps").to_pylist():
        values = decode_map(row, choice) if row["side"] == "harmful" else None
        if values is not None:
            found.setdefault(row["map_method"], []).append(values)
    if not found:
        raise UsageError(f"run {run.run_id} has no maps of harmful images")
    shares, area = {}, 0.0
    for name, maps in found.items():
        stacked = torch.from_numpy(np.stack(maps))
        place = _corner(patch, stacked.shape[2], stacked.shape[3])
        leaked = leakage(stacked, place.expand(len(stacked), -1, -1), [level])
        shares[name] = float(leaked.shares.nanmean())
        area = float(place.double().mean())
    return shares, area


def _corner(patch: Patch, height: int, width: int) -> torch.Tensor:
    """(h, w) bool: where the patch stands in images that are neither resized nor cropped."""
    place = torch.zeros(height, width, dtype=torch.bool)
    vertical, _, horizontal = patch.corner.partition("_")
    near = slice(patch.margin, patch.margin + patch.size)
    rows = near if vertical == "top" else slice(height - near.stop, height - near.start)
    columns = near if horizontal == "left" else slice(width - near.stop, width - near.start)
    place[rows, columns] = True
    return place


def plot_sweep(points: Sequence[SweepPoint], path: str | Path) -> Path:
    """Accuracies above, shares below, against the fraction: .png, .svg or .pdf."""
    figure = new_figure(7.0, 7.5, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    fractions = [100 * point.fraction for point in points]
    curves = {
        "all test images": [point.accuracy for point in points],
        "patched class, without patch": [point.own_class for point in points],
        "other class, with patch": [point.other_class for point in points],
    }
    for (label, values), style in zip(curves.items(), line_styles(3), strict=True):
        _line(upper, fractions, values, label, style)
    upper.set_ylabel("accuracy in %")
    maps = list(dict.fromkeys(name for point in points for name in point.shares))
    styles = line_styles(len(maps) + 1)
    for name, style in zip(maps, styles, strict=False):
        _line(
            lower,
            fractions,
            [point.shares.get(name) for point in points],
            f"in the patch: {name}",
            style,
        )
    _line(
        lower, fractions, [p.patched for p in points], "harmful images that are patched", styles[-1]
    )
    lower.axhline(100 * points[0].area, color="0.5", linewidth=0.8, linestyle=":", label="chance")
    lower.set_ylabel("share in %")
    lower.set_xlabel("patched training images of the class in %")
    for axis in (upper, lower):
        axis.set_ylim(-3, 103)
        axis.legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def _line(
    axis: Any, x: list[float], values: Sequence[float | None], label: str, style: tuple[str, str]
) -> None:
    colour, marker = style
    y = [np.nan if value is None else 100 * value for value in values]
    axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label)
