"""A page of pictures and words, each put at its place in inches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colour of the line around a marked region.
OUTLINE = "#F0E442"
FONT = 7.5


class Page:
    """A figure that is filled in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self._figure, self._width, self._height = figure, width, height

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = FONT,
        colour: str = "black",
        weight: str = "normal",
        align: str = "left",
    ) -> Any:
        """A line of text whose base line is at ``y``. '$' is no mathematics here."""
        return self._figure.text(
            x / self._width, 1 - y / self._height, text, fontsize=size, color=colour,
            fontweight=weight, ha=align, va="baseline", parse_math=False,
        )  # fmt: skip

    def image(
        self,
        pixels: np.ndarray,
        x: float,
        y: float,
        width: float,
        height: float,
        mask: np.ndarray | None,
    ) -> None:
        place = (
            x / self._width, 1 - (y + height) / self._height,
            width / self._width, height / self._height,
        )  # fmt: skip
        axis = self._figure.add_axes(place)
        small = max(pixels.shape[:2]) < 2 * self._figure.dpi * max(width, height) / 3
        axis.imshow(
            pixels, cmap="gray", vmin=0.0, vmax=1.0, aspect="auto",
            interpolation="nearest" if small else "auto",
        )  # fmt: skip
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_linewidth(0.4)
        if mask is not None and mask.any():
            outline(axis, mask)

    def key(self, x: float, y: float, text: str, fill: str, edge: str | None) -> float:
        """A coloured square and what it means; returns where the next one begins."""
        from matplotlib.patches import Rectangle

        side = 0.1
        square = Rectangle(
            (x / self._width, 1 - y / self._height),
            side / self._width,
            side / self._height,
            facecolor=fill,
            edgecolor=edge or "none",
            linewidth=1.4,
            transform=self._figure.transFigure,
        )
        self._figure.add_artist(square)
        found = self.words(x + side + 0.05, y, text, size=6.5)
        canvas: Any = self._figure.canvas
        extent = found.get_window_extent(canvas.get_renderer())
        return float(extent.x1 / self._figure.dpi) + 0.18


def outline(axis: Any, mask: np.ndarray) -> None:
    """The edges of the marked pixels, dark under light, so that they show on any image."""
    from matplotlib.collections import LineCollection

    inside = np.pad(mask, 1)
    lines = [
        ((column - 0.5, row - 0.5), (column + 0.5, row - 0.5))
        for row, column in np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])
    ]
    lines += [
        ((column - 0.5, row - 0.5), (column - 0.5, row + 0.5))
        for row, column in np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])
    ]
    for colour, width in (("black", 2.2), (OUTLINE, 1.1)):
        axis.add_collection(
            LineCollection(
                lines, colors=colour, linewidths=width, capstyle="projecting", clip_on=False
            )
        )
