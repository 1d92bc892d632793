"""A figure per query: the right images at the right places, under their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from gradattr.errors import UsageError
from gradattr.report.results import Run
from gradattr.report.training_images import TrainingImages, cell_pixels, overlay
from gradattr.storage.objects import open_store
from tests.made_up_tfa import BLOCKS, MadeUpTfa


@pytest.fixture(scope="module")
def made() -> MadeUpTfa:
    return MadeUpTfa()


@pytest.fixture(scope="module")
def run(made: MadeUpTfa, tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = open_store(str(tmp_path_factory.mktemp("tfa")))
    made.write(store)
    return Run(store, made.run_id)


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def drawn(axis: Axes) -> np.ndarray:
    return np.asarray(axis.images[0].get_array(), np.float32)


def test_query_and_training_images_are_those_of_the_data(made: MadeUpTfa, run: Run) -> None:
    figure = TrainingImages(run).figure(1)
    pairs = [p for p in made.pairs if (p["query"], p["method"]) == (1, "grad_cos")]
    assert len(figure.axes) == 1 + 2 * len(pairs)
    for place, pair in enumerate(pairs):
        image = made.train.x[pair["train_row"], 0].numpy()
        assert np.array_equal(drawn(figure.axes[1 + 2 * place]), image)
        values = made.values(pair, "tfa")
        assert values is not None
        under = drawn(figure.axes[2 + 2 * place])
        assert np.abs(under - overlay(image, values)).max() < 0.01


def test_what_is_written_beside_them(run: Run) -> None:
    words = words_of(TrainingImages(run).figure(0))
    for text in (
        "Query 0",
        "00000000",
        "label: 0",
        "predicted: 1 (50%)",
        "Most helpful by grad_cos (map: tfa)",
        "Most harmful by grad_cos (map: tfa)",
        "no map",
        "raises the score",
    ):
        assert text in words
    assert {"+0.9", "+0.45", "+0.3", "−0.9", "−0.45", "−0.3"} <= set(words)
    taken = [text for text in words if text.startswith("taken for")]
    assert len(taken) == 2, "those of rank 2"
    assert "marked region" not in words


def test_helpful_stands_above_harmful_and_the_query_left_of_both(run: Run) -> None:
    axes = TrainingImages(run, top=2).figure(1).axes
    query, plain, under, *_ = (axis.get_position() for axis in axes)
    harmful = axes[5].get_position()
    assert query.x1 < plain.x0
    assert under.x0 == plain.x0 == harmful.x0
    assert under.y1 < plain.y0
    assert harmful.y1 < under.y0
    assert axes[3].get_position().x0 > plain.x1


def test_another_score_and_another_map(made: MadeUpTfa, run: Run) -> None:
    chosen = TrainingImages(run, method="random", map_method="deep", top=1)
    figure = chosen.figure(2)
    assert len(figure.axes) == 1 + 2 * 2
    (pair, *_) = (p for p in made.pairs if (p["query"], p["method"]) == (2, "random"))
    image = made.train.x[pair["train_row"], 0].numpy()
    assert np.array_equal(drawn(figure.axes[1]), image)
    values = made.values(pair, "deep")
    assert values is not None
    assert np.abs(drawn(figure.axes[2]) - overlay(image, values)).max() < 0.01
    for wrong in ({"method": "tracin"}, {"map_method": "saliency"}):
        with pytest.raises(UsageError, match="in this run; there is"):
            TrainingImages(run, **wrong)  # type: ignore[arg-type]


def test_a_marked_region_is_outlined(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    made = MadeUpTfa(name="blocks", count=1, top=1, **BLOCKS)
    made.write(store)
    figure = TrainingImages(Run(store, made.run_id)).figure(0)
    assert "marked region" in words_of(figure)
    for axis in figure.axes:
        dark, light = (c for c in axis.collections if isinstance(c, LineCollection))
        ends = np.array(light.get_segments()).reshape(-1, 2)
        # The null block: 28 rows of 28 columns, above or below.
        assert (np.ptp(ends[:, 0]), np.ptp(ends[:, 1])) == (28, 28)
        assert len(light.get_segments()) == len(dark.get_segments()) == 4 * 28


def test_without_maps_the_images_stand_alone(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    made = MadeUpTfa(maps=(), insertion=False, count=1, top=2)
    made.write(store)
    figure = TrainingImages(Run(store, made.run_id)).figure(0)
    assert len(figure.axes) == 1 + 4
    assert "raises the score" not in words_of(figure)


def test_files_of_every_kind(run: Run, tmp_path: Path) -> None:
    images = TrainingImages(run)
    one = Image.open(images.plot(1, tmp_path / "a.png"))
    few = Image.open(TrainingImages(run, top=1).plot(1, tmp_path / "b.png"))
    assert few.height == one.height
    assert few.width < one.width
    first = images.plot(1, tmp_path / "a.svg").read_bytes()
    assert images.plot(1, tmp_path / "b.svg").read_bytes() == first
    with pytest.raises(UsageError, match=r"ends in \.png, \.svg or \.pdf"):
        images.plot(1, tmp_path / "a.gif")
    with pytest.raises(UsageError, match="has no query 5; it has 5, from 0"):
        images.plot(5, tmp_path / "c.png")


def test_another_kind_of_run_is_refused(opened: Any) -> None:
    with pytest.raises(UsageError, match="is of kind 'attribute'; only a run of kind 'tfa'"):
        TrainingImages(opened)


def test_red_raises_blue_lowers_and_zero_is_grey() -> None:
    values = np.array([[[1.0, -1.0], [0.5, 0.0]]], np.float32)
    black, white = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    raises, lowers, half, nothing = overlay(black, values).reshape(4, 3)
    assert raises[0] > raises[1:].max() + 0.5
    assert lowers[2] > lowers[0] + 0.4
    assert raises[0] > half[0] > nothing[0]
    assert np.ptp(nothing) == 0
    assert overlay(white, values)[1, 1, 0] > nothing[0] + 0.3
    assert np.array_equal(overlay(white, 0 * values), overlay(white, 0 * values).clip(0, 1))


def test_a_large_map_is_drawn_in_cells() -> None:
    random = np.random.default_rng(0)
    picture = random.random((225, 200, 3), dtype=np.float32)
    values = random.normal(size=(3, 225, 200)).astype(np.float32)
    values[:, 100:120, 40:60] += 5
    found = overlay(picture, values)
    assert found.shape == picture.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert cell_pixels((225, 200)) == 4
    assert cell_pixels((32, 32)) == 1
    red = found[..., 0] - found[..., 2]
    assert red[100:120, 40:60].mean() > 5 * np.abs(red[:90]).mean()
    # Colour and strength are one in a cell: without the image under it, so is the pixel.
    flat = overlay(np.zeros((225, 200), np.float32), values)
    assert np.allclose(flat[:4, :4], flat[0, 0])
    assert np.allclose(flat[224:, :4], flat[224, 0])
