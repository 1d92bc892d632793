"""The contact sheet: a picture with the right panels in the right places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradattr.errors import UsageError
from gradattr.report.contact_sheet import contact_sheet
from gradattr.report.results import Run


def test_one_row_per_sample_one_column_per_method(opened: Run, tmp_path: Path) -> None:
    small = Image.open(contact_sheet(opened, tmp_path / "a.png", samples=2))
    tall = Image.open(contact_sheet(opened, tmp_path / "b.png", samples=6))
    assert small.width == tall.width
    assert tall.height > 2 * small.height
    pixels = np.asarray(tall.convert("RGB")).astype(int)
    # Signed maps are drawn in red and blue, the image and the saliency in greys.
    colour = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max(axis=2) > 40
    thirds = np.array_split(colour, 5, axis=1)
    assert not thirds[0].any()
    assert not thirds[1].any()
    assert all(part.mean() > 0.05 for part in thirds[2:])


def test_a_run_without_maps_has_no_picture(make_run: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no maps to draw"):
        contact_sheet(make_run("none"), tmp_path / "c.png")  # type: ignore[operator]
    assert not (tmp_path / "c.png").exists()


def test_many_methods_stand_below_one_another(
    opened: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradattr.report.contact_sheet._MANY", 2)
    narrow = Image.open(contact_sheet(opened, tmp_path / "a.png", samples=2))
    wide = Image.open(contact_sheet(opened, tmp_path / "b.png", samples=6))
    assert wide.height == narrow.height
    assert wide.width > narrow.width
    pixels = np.asarray(wide.convert("RGB")).astype(int)
    colour = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max(axis=2) > 40
    # The image, the saliency, then signed maps: now from the top down.
    lines = np.array_split(colour[80:], 5, axis=0)
    assert not lines[0][: len(lines[0]) // 2].any()
    assert lines[-1].mean() > 0.05
