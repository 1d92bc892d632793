"""Curves of insertion tests: what is drawn is what the table holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import UsageError
from gradattr.report.insertion_curves import insertion_figure, plot_insertion
from gradattr.report.results import Run
from gradattr.storage.objects import open_store
from tests.made_up_tfa import MadeUpTfa


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = open_store(str(tmp_path_factory.mktemp("tfa")))
    made = MadeUpTfa()
    made.write(store)
    return Run(store, made.run_id)


def test_a_panel_per_side_and_a_line_per_score_and_map(run: Run) -> None:
    figure = insertion_figure(run)
    helpful, harmful = figure.axes
    assert helpful.get_title().startswith("insertion, helpful images (15 pairs, 95 % intervals)")
    assert "harmful images (14 pairs" in harmful.get_title()
    (zero, *lines) = sorted(helpful.lines, key=lambda line: len(line.get_xdata()))
    assert set(zero.get_ydata()) == {0}
    names = ["grad_cos, tfa", "grad_cos, plain", "random, tfa", "random, plain"]
    assert [line.get_label() for line in lines] == names
    rows = run.sql(
        "SELECT level, difference FROM tfa_summary WHERE side = 'helpful' AND method = 'grad_cos' "
        "AND map_method = 'plain' ORDER BY level"
    ).to_pylist()
    assert lines[1].get_xdata() == pytest.approx([100 * row["level"] for row in rows])
    assert lines[1].get_ydata() == pytest.approx([row["difference"] for row in rows])
    assert len({line.get_color() for line in lines}) == len(names)
    assert len(figure.legends) == 1


def test_it_is_written(run: Run, tmp_path: Path) -> None:
    assert plot_insertion(run, tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        plot_insertion(run, tmp_path / "i.txt")


def test_a_run_without_tests_is_refused(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no insertion test"):
        plot_insertion(opened, tmp_path / "i.png")
    assert not list(tmp_path.iterdir())
