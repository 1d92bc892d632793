"""Figures of an evaluation: what is drawn is what the tables hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradattr.errors import UsageError
from gradattr.report.agreement_figure import agreement_figure
from gradattr.report.evaluation_summary import rows_of
from gradattr.report.figures import method_styles
from gradattr.report.metric_curves import metric_curves_figure
from gradattr.report.metric_figures import (
    FIGURES,
    metrics_figure,
    missing_figures,
    plot_evaluation,
    styles_of,
)
from gradattr.report.results import Run
from gradattr.storage.objects import open_store
from tests.made_up_evaluations import METHODS, METRICS, MODULES, MadeUpEvaluation

Make = Callable[..., Run]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    store = open_store(str(tmp_path_factory.mktemp("evaluations")))

    def written(**how: Any) -> Run:
        return Run(store, MadeUpEvaluation(**how).write(store).run_id)

    return written


@pytest.fixture(scope="module")
def run(make: Make) -> Run:
    return make()


@pytest.fixture(scope="module")
def short(make: Make) -> Run:
    return make(name="short", metrics=("deletion_auc",), curves=("deletion",), images=20)


@pytest.fixture(scope="module")
def many(make: Make) -> Run:
    """Twelve methods, whose names are long."""
    names = [f"{i}-method-with-a-long-name" for i in range(11)]
    methods = {name: i / 11 for i, name in enumerate(names)} | {"random": 0.0}
    return make(name="many", methods=methods, images=20)


def metrics_of(run: Run) -> Figure:
    return metrics_figure(rows_of(run, "summary"), styles_of(run))


def curves_of(run: Run) -> Figure:
    return metric_curves_figure(rows_of(run, "curves"), styles_of(run))


def agreement_of(run: Run) -> Figure:
    return agreement_figure(rows_of(run, "agreement"), list(styles_of(run)))


def test_twelve_methods_are_told_apart_and_random_is_black() -> None:
    names = [*(f"m{i}" for i in range(27)), "random"]
    styles = method_styles(names, "random")
    assert list(styles) == names
    assert styles["random"].colour == "#000000"
    looks = [(style.colour, style.marker) for style in styles.values()]
    lines = [(style.colour, str(style.dash)) for style in styles.values()]
    assert len(set(looks)) == len(set(lines)) == 28


def test_a_method_looks_the_same_whatever_others_there_are_after_it() -> None:
    assert method_styles(["a", "b"])["b"] == method_styles(["a", "b", "c"])["b"]
    assert method_styles(["a", "random"], "random")["a"] == method_styles(["a"])["a"]


def test_a_method_named_random_is_black_whatever_its_id(run: Run) -> None:
    made = run.manifest["methods"]
    assert styles_of(run)["random"].colour == "#000000"
    made[1]["name"] = "random"
    try:
        assert styles_of(run)["integrated_gradients"].colour == "#000000"
    finally:
        made[1]["name"] = "saliency"


def test_a_panel_per_metric_with_the_methods_in_the_manifests_order(run: Run) -> None:
    figure = metrics_of(run)
    assert [axis.get_title() for axis in figure.axes] == list(METRICS)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(METHODS)
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first method is on top
    directions = [axis.get_xlabel() for axis in figure.axes]
    assert directions[:2] == ["← lower is better", "higher is better →"]
    assert directions[-1] == "neither is better"


def test_a_point_and_its_whiskers_are_the_mean_and_its_interval(run: Run) -> None:
    axis = metrics_of(run).axes[0]
    rows = [row for row in rows_of(run, "summary") if row["metric"] == "deletion_auc"]
    drawn: list[Any] = list(axis.containers)
    assert len(drawn) == len(rows)
    for place, (container, row) in enumerate(zip(drawn, rows, strict=True)):
        point, _, (whisker,) = container.lines
        assert point.get_xydata().tolist() == [[row["mean"], place]]
        assert whisker.get_segments()[0][:, 0] == pytest.approx([row["low"], row["high"]])
        assert point.get_color() == styles_of(run)[row["method"]].colour


def test_where_a_metric_says_nothing_of_a_method_it_is_written(make: Make, run: Run) -> None:
    panel = metrics_of(run).axes[list(METRICS).index("path_monotonicity")]
    assert [text.get_text() for text in panel.texts] == ["does not apply"] * 2
    single = make(name="single", images=1, shards=1)
    assert [text.get_text() for text in metrics_of(single).axes[0].texts] == ["no value"]
    assert "over 1 image;" in metrics_of(single).get_suptitle()


def test_a_metric_over_orders_of_magnitude_has_a_logarithmic_axis(run: Run) -> None:
    scales = [axis.get_xscale() for axis in metrics_of(run).axes]
    assert [name for name, scale in zip(METRICS, scales, strict=True) if scale == "log"] == [
        "infidelity"
    ]


@pytest.mark.parametrize(
    ("means", "scale"),
    [((0.001, 0.9), "linear"), ((0.001, 3.0), "log"), ((1e-6, 0.01), "log"), ((-1, 300), "linear")],
)
def test_correlations_and_shares_are_never_on_a_logarithmic_axis(
    means: tuple[float, float], scale: str
) -> None:
    row = {"metric": "m", "higher_is_better": True, "n": 9, "missing": 0, "low": None}
    rows = [row | {"method": name, "mean": mean} for name, mean in zip("ab", means, strict=True)]
    (axis,) = metrics_figure(rows, method_styles(["a", "b"])).axes
    assert axis.get_xscale() == scale


def test_a_line_per_method_with_its_band(run: Run) -> None:
    figure = curves_of(run)
    titles = [axis.get_title().split("\n")[0] for axis in figure.axes]
    assert titles == ["deletion", "insertion", "randomisation_spearman"]
    axis = figure.axes[0]
    assert "60 images, 95 % intervals" in axis.get_title()
    assert axis.get_xlabel() == "pixels removed, highest first (%)"
    assert [line.get_label() for line in axis.lines] == list(METHODS)
    assert len(axis.collections) == len(METHODS)
    for line in axis.lines:
        rows = [
            row
            for row in rows_of(run, "curves")
            if (row["method"], row["curve"]) == (line.get_label(), "deletion")
        ]
        assert np.asarray(line.get_xdata()) == pytest.approx([100 * row["x"] for row in rows])
        assert np.asarray(line.get_ydata()) == pytest.approx([row["mean"] for row in rows])
    assert len(figure.legends) == 1


def test_a_curve_of_stages_has_their_names(run: Run) -> None:
    axis = curves_of(run).axes[2]
    assert [text.get_text() for text in axis.get_xticklabels()] == list(MODULES)


def test_of_many_stages_some_are_named(make: Make) -> None:
    modules = tuple(f"features.{i}.conv" for i in range(60))
    deep = make(name="deep", modules=modules, curves=("randomisation_spearman",), images=8)
    (axis,) = curves_of(deep).axes
    shown = [text.get_text() for text in axis.get_xticklabels()]
    assert shown == list(modules[::3])


def test_a_method_without_any_curve_has_no_line(make: Make) -> None:
    single = make(name="one", images=1, shards=1)
    figure = curves_of(single)
    assert [line.get_label() for line in figure.axes[0].lines] == list(METHODS)[1:]
    assert "95 %" not in figure.axes[0].get_title()


def test_a_matrix_per_measure_with_every_mean_written(run: Run) -> None:
    figure = agreement_of(run)
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title().split("\n")[0] for axis in panels] == [
        "rank correlation",
        "rank correlation",
        "share of the highest pixels",
    ]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == list(METHODS)
    shown: Any = panels[0].images[0].get_array()
    order = list(METHODS)
    for row in rows_of(run, "agreement"):
        if row["measure"] == "spearman":
            a, b = order.index(row["first"]), order.index(row["second"])
            assert shown[a, b] == shown[b, a] == pytest.approx(row["mean"])
            assert f"{row['mean']:.2f}" in {text.get_text() for text in panels[0].texts}
    assert shown.mask.diagonal().all()
    assert len(panels[0].texts) == len(order) * (len(order) - 1)


def test_agreement_below_chance_has_a_scale_that_goes_there(run: Run) -> None:
    rows = [{**row, "mean": -0.5} for row in rows_of(run, "agreement")]
    (first, *_) = agreement_figure(rows, list(METHODS)).axes
    assert first.images[0].get_clim() == (-1, 1)
    assert agreement_of(run).axes[0].images[0].get_clim() == (0, 1)


def test_long_names_of_columns_are_shortened(run: Run) -> None:
    long = {method: f"{method}-{'x' * 60}-end" for method in METHODS}
    rows = [
        {**row, "first": long[row["first"]], "second": long[row["second"]]}
        for row in rows_of(run, "agreement")
    ]
    (first, *_) = agreement_figure(rows, list(long.values())).axes
    shown = [text.get_text() for text in first.get_xticklabels()]
    assert shown[0] == "saliency-xxxxxx…xxxxxxxxxxx-end"
    assert len(set(shown)) == len(METHODS)


def test_a_pair_without_a_value_is_written(run: Run) -> None:
    rows = [{**row, "mean": None} for row in rows_of(run, "agreement")]
    (first, *_) = agreement_figure(rows, list(METHODS)).axes
    assert {text.get_text() for text in first.texts} == {"none"}


@pytest.mark.parametrize("draw", [metrics_of, curves_of, agreement_of])
@pytest.mark.parametrize("size", ["many", "short"])
def test_nothing_is_cut_off(
    request: pytest.FixtureRequest, size: str, draw: Callable[[Run], Figure]
) -> None:
    """Of twelve methods, and of a single panel."""
    figure = draw(request.getfixturevalue(size))
    figure.canvas.draw()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    boxes += [text.get_window_extent() for text in figure.texts if text.get_text()]
    for box in boxes:
        assert box is not None
        assert -1 <= box.x0 < box.x1 <= width + 1
        assert -1 <= box.y0 < box.y1 <= height + 1


@pytest.mark.parametrize(("figure", "kind"), zip(FIGURES, ("pdf", "svg", "png"), strict=True))
def test_a_file_is_the_same_whenever_it_is_drawn(
    short: Run, tmp_path: Path, figure: str, kind: str
) -> None:
    first = plot_evaluation(short, figure, tmp_path / f"a.{kind}").read_bytes()
    assert plot_evaluation(short, figure, tmp_path / f"b.{kind}").read_bytes() == first
    assert len(first) > 5000


def test_what_a_run_does_not_have_is_said(make: Make, tmp_path: Path) -> None:
    plain = make(name="plain", curves=(), agreement=False)
    assert list(missing_figures(plain)) == ["curves", "agreement"]
    with pytest.raises(UsageError, match="has no figure 'agreement': its manifest has no metric"):
        plot_evaluation(plain, "agreement", tmp_path / "a.png")
    with pytest.raises(UsageError, match="figure 'bars': expected curves, metrics, agreement"):
        plot_evaluation(plain, "bars", tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"ends in \.png, \.svg or \.pdf"):
        plot_evaluation(plain, "metrics", tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_kind_is_refused(make: Make, tmp_path: Path) -> None:
    other = make(name="other", kind="attribute", metrics=("deletion_auc",), curves=(), images=4)
    with pytest.raises(UsageError, match="is of kind 'attribute'; these are the figures of kind"):
        plot_evaluation(other, "metrics", tmp_path / "a.png")
