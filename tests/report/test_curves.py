"""DiffROAR curves: what is drawn is what the tables hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gradattr.errors import UsageError
from gradattr.report.curves import curves_figure, panels_of, plot_curves
from gradattr.report.results import Run
from gradattr.storage.objects import open_store
from tests.made_up_audits import EFFECTS, LEVELS, MadeUpAudit


def opened(folder: Path, audit: MadeUpAudit) -> Run:
    store = open_store(str(folder))
    return Run(store, audit.write(store).run_id)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return opened(tmp_path_factory.mktemp("audit"), MadeUpAudit())


def lines_of(figure: Figure, panel: int = 0) -> dict[str, Any]:
    return {str(line.get_label()): line for line in figure.axes[panel].lines}


def test_a_line_per_scheme_in_percent(audit: Run) -> None:
    figure = curves_figure(panels_of(audit))
    lines = lines_of(figure)
    assert set(EFFECTS) <= set(lines)
    for scheme in EFFECTS:
        rows = audit.sql(
            f"SELECT level, diffroar FROM diffroar WHERE scheme = '{scheme}' "
            "AND variant = 'retrain' ORDER BY level"
        ).to_pylist()
        assert lines[scheme].get_xdata() == pytest.approx([100 * level for level in LEVELS])
        assert lines[scheme].get_ydata() == pytest.approx([row["diffroar"] for row in rows])


def test_schemes_differ_in_colour_and_in_marker(audit: Run) -> None:
    lines = [
        line for name, line in lines_of(curves_figure(panels_of(audit))).items() if name in EFFECTS
    ]
    for looks in ("get_color", "get_marker"):
        assert len({getattr(line, looks)() for line in lines}) == len(EFFECTS)


def test_the_noise_floor_is_drawn_and_written(audit: Run) -> None:
    (panel,) = panels_of(audit)
    assert panel.noise_floor is not None
    axis = curves_figure([panel]).axes[0]
    spans = [patch for patch in axis.patches if patch.get_label() == "noise floor (k = 100 %)"]
    (span,) = spans
    ends = span.get_path().get_extents(span.get_patch_transform())
    assert (ends.y0, ends.y1) == pytest.approx((-panel.noise_floor, panel.noise_floor))
    assert f"noise floor ±{panel.noise_floor:.3f}" in axis.get_title()


def test_pred_power_is_the_second_row(audit: Run) -> None:
    figure = curves_figure(panels_of(audit), pred_power=True)
    assert len(figure.axes) == 2
    drawn = [line for line in figure.axes[1].lines if np.size(line.get_xdata())]
    assert len(drawn) == 2 * len(EFFECTS)
    robust = audit.sql(
        "SELECT mean FROM pred_power WHERE scheme = 'robust/saliency' AND arm = 'top' "
        "AND variant = 'retrain' ORDER BY level"
    )
    assert any(np.allclose(line.get_ydata(), robust["mean"].to_pylist()) for line in drawn)


def test_runs_stand_side_by_side_with_one_legend(audit: Run, tmp_path: Path) -> None:
    other = opened(tmp_path, MadeUpAudit(name="quick", variants=("no_retrain",)))
    panels = [*panels_of(audit), *panels_of(other)]
    figure = curves_figure(panels)
    assert [axis.get_title().split("\n")[0] for axis in figure.axes] == ["made-up", "quick"]
    assert "1,000 test images" in figure.axes[1].get_title()
    first, second = lines_of(figure, 0), lines_of(figure, 1)
    assert all(first[name].get_color() == second[name].get_color() for name in EFFECTS)
    assert len(figure.legends) == 1
    one = Image.open(plot_curves(panels[:1], tmp_path / "one.png"))
    two = Image.open(plot_curves(panels, tmp_path / "two.png"))
    assert two.width == 2 * one.width


def test_learners_have_panels_of_their_own(tmp_path: Path) -> None:
    audit = MadeUpAudit(name="pair")
    for row in audit.rows:
        if row["scheme"] == "robust/saliency":
            row["learner"] = "robust"
    audit.schemes[1]["learner"] = "robust"
    first, second = panels_of(opened(tmp_path, audit))
    assert (first.title, second.title) == ("pair: standard", "pair: robust")
    assert second.schemes == ["robust/saliency"]


def test_one_seed_has_a_line_and_no_band(tmp_path: Path) -> None:
    figure = curves_figure(panels_of(opened(tmp_path, MadeUpAudit(seeds=1))))
    assert set(EFFECTS) <= set(lines_of(figure))
    assert "1 seed" in figure.axes[0].get_title()
    assert "95 %" not in figure.axes[0].get_title()


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_file_is_the_same_whenever_it_is_drawn(audit: Run, tmp_path: Path, kind: str) -> None:
    first = plot_curves(panels_of(audit), tmp_path / f"a.{kind}").read_bytes()
    assert plot_curves(panels_of(audit), tmp_path / f"b.{kind}").read_bytes() == first
    assert len(first) > 5000


def test_what_cannot_be_drawn_is_said(audit: Run, tmp_path: Path, make_run: Any) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png, \.svg or \.pdf"):
        plot_curves(panels_of(audit), tmp_path / "a.gif")
    with pytest.raises(UsageError, match="name at least one run"):
        plot_curves([], tmp_path / "a.png")
    with pytest.raises(UsageError, match="is of kind 'attribute' and has no DiffROAR scores"):
        panels_of(make_run("none"))
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_the_verdicts(audit: Run) -> None:
    shown = audit._repr_html_()
    for word in ("robust/saliency", "satisfies", "violates", "verdict"):
        assert word in shown


def test_the_legend_of_many_schemes_stays_within_the_figure(tmp_path: Path) -> None:
    names = [f"linf-8-255/a-method-with-a-long-name-{i}" for i in range(14)]
    many = opened(tmp_path, MadeUpAudit(name="many", effects=dict.fromkeys(names, 0.1)))
    figure = curves_figure(panels_of(many))
    figure.canvas.draw()
    (legend,) = figure.legends
    box, inches = legend.get_window_extent(), figure.get_size_inches() * figure.dpi
    assert 0 <= box.x0 < box.x1 <= inches[0]
    assert 0 <= box.y0 < box.y1 < figure.axes[0].get_window_extent().y0
    # The curves keep their room.
    assert figure.axes[0].get_window_extent().height > 2 * figure.dpi


def test_runs_beside_each_other_have_one_scale(audit: Run, tmp_path: Path) -> None:
    flat = opened(tmp_path, MadeUpAudit(name="flat", effects={"random": 0.0}))
    left, right = curves_figure(panels_of(audit) + panels_of(flat)).axes
    assert left.get_ylim() == right.get_ylim()
