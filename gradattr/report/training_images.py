"""A figure per query: the image, and the training images that helped and harmed its prediction
most, each as it is and, beneath, in pale grey under its map.

The map is signed: where it is red, a brighter pixel of the training image would raise the score
(of a layer: a stronger activation), where it is blue, lower it. Both colours can be told apart
by colour-blind readers. Each map has its own scale, the 99.5th percentile of its strength, so that
one loud pixel hides nothing. A marked region (a patch) is outlined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradattr.errors import UsageError
from gradattr.report.figures import figure_kind, new_figure, save_figure
from gradattr.report.page import OUTLINE, Page
from gradattr.report.pictures import Picture, Pictures, class_name
from gradattr.report.results import Run
from gradattr.storage.reader import training_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = ("helpful", "harmful")
_TITLES = {"helpful": "Most helpful", "harmful": "Most harmful"}
RAISES, LOWERS = "#C1272D", "#1F5FA8"
_WRONG = "#B34700"
#: Inches: the longer side of an image, gaps, a line of text, margins.
_PANEL, _GAP, _LINE, _EDGE = 1.3, 0.09, 0.135, 0.12
_QUERY = 1.35
#: For the key at the bottom.
_NARROWEST = 4.9
#: Cells along the longer side of a large image.
_CELLS = 56


@dataclass(frozen=True)
class _Pair:
    row: dict[str, Any]
    """Of the table ``tfa_pairs``."""
    picture: Picture
    values: np.ndarray | None
    """(c, h, w); None: there is no map."""


class TrainingImages:
    """Draws the queries of one run of kind tfa."""

    def __init__(
        self,
        run: Run,
        *,
        method: str | None = None,
        map_method: str | None = None,
        top: int = 5,
    ) -> None:
        """``method``: the score that chooses the training images; ``map_method``: which of their
        maps is drawn. Default: the manifest's first. ``top``: images of either side at most.

        UsageError: the run is of another kind, or has no such score or map.
        """
        if run.manifest["kind"] != "tfa":
            raise UsageError(
                f"run {run.run_id} is of kind {run.manifest['kind']!r}; only a run of kind 'tfa' "
                "has training images to draw"
            )
        self.run, self.top = run, top
        self.method = _one_of(method, run.methods, "score")
        self.map_method = _one_of(map_method, run.map_methods, "map") if run.map_methods else None
        self.queries = {row["query"]: row for row in run.table("queries").to_pylist()}
        self._pairs: dict[int, list[dict[str, Any]]] = {}
        for row in run.pairs(method=self.method).to_pylist():
            if row["rank"] <= top:
                self._pairs.setdefault(row["query"], []).append(row)
        self._train = Pictures(run, run.manifest["data"])
        self._test = Pictures(run, run.manifest["queries"]["data"])

    def plot(self, query: int, path: str | Path) -> Path:
        """Draw one query into a .png, .svg or .pdf file; return its path.

        UsageError: no such query, another kind of file, or one that cannot be written.
        """
        figure_kind(path)
        return save_figure(self.figure(query), path)

    def figure(self, query: int) -> Figure:
        """The figure itself."""
        if query not in self.queries:
            raise UsageError(
                f"run {self.run.run_id} has no query {query}; it has {len(self.queries)}, from 0"
            )
        asked = self.queries[query]
        picture = self._test.read([asked["query_row"]])[asked["query_row"]]
        return _draw(self.run, asked, picture, self._sides(query), self._titles(), self.map_method)

    def _titles(self) -> dict[str, str]:
        shown = f" (map: {self.map_method})" if self.map_method else ""
        return {side: f"{title} by {self.method}{shown}" for side, title in _TITLES.items()}

    def _sides(self, query: int) -> dict[str, list[_Pair]]:
        rows = sorted(self._pairs.get(query, []), key=lambda row: row["rank"])
        pictures = self._train.read([row["train_row"] for row in rows])
        values = {}
        if self.map_method:
            values = {
                (one.side, one.rank): one.values
                for one in training_maps(self.run.store, self.run.commit, query)
                if (one.method, one.map_method) == (self.method, self.map_method)
            }
        return {
            side: [
                _Pair(row, pictures[row["train_row"]], values.get((side, row["rank"])))
                for row in rows
                if row["side"] == side
            ]
            for side in SIDES
        }


def _one_of(name: str | None, known: Sequence[str], what: str) -> str:
    if name is None:
        return known[0]
    if name not in known:
        raise UsageError(f"there is no {what} {name!r} in this run; there is {', '.join(known)}")
    return name


def overlay(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map (c, h, w), summed over channels, on an image (h, w[, 3]) in pale grey: (h, w, 3) in
    [0, 1]. Of a large image cells of pixels have one colour, a mixture by what is red and what is
    blue in them: single pixels would be too small to see."""
    grey = picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114], np.float32)
    under = np.repeat((0.5 + 0.45 * grey)[..., None], 3, axis=2)
    flat = values.sum(axis=0)
    cell = cell_pixels(grey.shape)
    red, blue = (_pooled(np.maximum(sign * flat, 0), cell) for sign in (1, -1))
    both = red + blue
    limit = float(np.percentile(both, 99.5)) or float(both.max()) or 1.0
    strength = np.minimum(both / limit, 1.0)[..., None]
    part = (red / np.where(both > 0, both, 1.0))[..., None]
    return under * (1 - strength) + (part * _rgb(RAISES) + (1 - part) * _rgb(LOWERS)) * strength


def cell_pixels(shape: tuple[int, ...]) -> int:
    """Side of a cell of pixels that is drawn in one colour."""
    return max(1, round(max(shape[:2]) / _CELLS))


def _pooled(values: np.ndarray, cell: int) -> np.ndarray:
    """Means of cells (h, w), each at all of its pixels; those at the lower and right edge may be
    smaller."""
    if cell == 1:
        return values
    height, width = values.shape
    rows, columns = np.arange(0, height, cell), np.arange(0, width, cell)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    tall, wide = (np.diff(np.append(at, end)) for at, end in ((rows, height), (columns, width)))
    means = sums / np.outer(tall, wide)
    return np.repeat(np.repeat(means, tall, axis=0), wide, axis=1)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])


def _draw(
    run: Run,
    asked: dict[str, Any],
    picture: Picture,
    sides: dict[str, list[_Pair]],
    titles: dict[str, str],
    map_method: str | None,
) -> Figure:
    width, height = _inches(picture.pixels)
    columns = max(1, *(len(pairs) for pairs in sides.values()))
    captions = 3 * _LINE
    images = 2 if map_method else 1
    band = 1.6 * _LINE + captions + images * height + (images - 1) * _GAP
    left = 2 * _EDGE + _QUERY * width + 2 * _GAP
    total_width = left + columns * (width + _GAP) + _EDGE
    total_height = 2 * band + 5 * _GAP + 2.4 * _LINE + 2 * _EDGE
    total_width = max(total_width, _NARROWEST)
    figure = new_figure(total_width, total_height)
    page = Page(figure, total_width, total_height)

    middle = _EDGE + band + 2 * _GAP
    top = middle - _QUERY * height / 2 + 2 * _LINE
    page.image(picture.pixels, _EDGE, top, _QUERY * width, _QUERY * height, picture.mask)
    _query_words(page, run, asked, _EDGE, top, _QUERY * width, _QUERY * height)
    for number, side in enumerate(SIDES):
        at = _EDGE + number * (band + 4 * _GAP)
        page.words(left, at + _LINE, titles[side], size=8.5, weight="bold")
        if not sides[side]:
            page.words(left, at + 3 * _LINE, "none: no score is on this side of 0")
        for place, pair in enumerate(sides[side]):
            _pair_panel(
                page, run, pair, left + place * (width + _GAP), at + 1.6 * _LINE, (width, height),
                with_map=map_method is not None,
            )  # fmt: skip
    marked = any(
        one.mask is not None and one.mask.any()
        for one in (picture, *(pair.picture for pairs in sides.values() for pair in pairs))
    )
    scale = "each map has its own scale"
    if (cell := cell_pixels(picture.pixels.shape)) > 1:
        scale += f", cells of {cell}x{cell} pixels"
    _key(page, scale if map_method else "", marked, total_height - _EDGE)
    return figure


def _inches(pixels: np.ndarray) -> tuple[float, float]:
    """Width and height of a panel."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    return max(0.6, _PANEL * width / longest), max(0.35, _PANEL * height / longest)


def _query_words(
    page: Page, run: Run, asked: dict[str, Any], x: float, y: float, width: float, height: float
) -> None:
    page.words(x, y - 2.2 * _LINE, f"Query {asked['query']}", size=8.5, weight="bold")
    page.words(x, y - 1.1 * _LINE, str(asked["sample_id"])[:30], colour="0.35", size=6.5)
    label, predicted = asked["label"], asked["predicted"]
    page.words(x, y + height + _LINE, f"label: {class_name(run, label)}")
    wrong = label is not None and label != predicted
    said = f"predicted: {class_name(run, predicted)} ({asked['confidence']:.0%})"
    page.words(x, y + height + 2.1 * _LINE, said, colour=_WRONG if wrong else "black")
    if asked["loss"] is not None:
        page.words(x, y + height + 3.2 * _LINE, f"loss: {asked['loss']:.3g}")


def _class(run: Run, label: int) -> str:
    """'dog', but 'class 7': a number alone would look like another rank."""
    name = class_name(run, label)
    return f"class {name}" if name.isdigit() else name


def _pair_panel(
    page: Page,
    run: Run,
    pair: _Pair,
    x: float,
    y: float,
    size: tuple[float, float],
    *,
    with_map: bool,
) -> None:
    row, (width, height) = pair.row, size
    page.words(x, y + _LINE, f"{row['rank']}. {_class(run, row['train_label'])}")
    page.words(x, y + 2 * _LINE, f"{row['score']:+.3g}".replace("-", "−"))
    if row["train_predicted"] != row["train_label"]:
        taken = f"taken for {class_name(run, row['train_predicted'])}"
        page.words(x, y + 2.95 * _LINE, taken, colour=_WRONG, size=6.5)
    y += 3 * _LINE + 0.03
    page.image(pair.picture.pixels, x, y, width, height, pair.picture.mask)
    if not with_map:
        return
    y += height + _GAP
    if pair.values is None:
        page.image(np.ones((1, 1)), x, y, width, height, None)
        page.words(x + width / 2, y + height / 2, "no map", align="center", colour="0.35")
        return
    page.image(overlay(pair.picture.pixels, pair.values), x, y, width, height, pair.picture.mask)


def _key(page: Page, scale: str, marked: bool, bottom: float) -> None:
    x = _EDGE
    entries: list[tuple[str, str, str | None]] = []
    if scale:
        entries += [("raises the score", RAISES, None), ("lowers it", LOWERS, None)]
    if marked:
        entries.append(("marked region", "0.35", OUTLINE))
    for text, fill, edge in entries:
        x = page.key(x, bottom, text, fill, edge)
    if scale:
        page.words(x, bottom, scale, colour="0.35", size=6.5)
