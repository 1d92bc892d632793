"""The figure of a comparison: panels by measure, and nothing that a name could break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.errors import UsageError
from gradattr.report.compare.figure import plot_comparison
from gradattr.report.compare.runs import Comparison, compare_runs
from gradattr.report.compare.sections import Section, likeness_row
from gradattr.report.results import Run
from gradattr.storage.objects import open_store
from tests.made_up_audits import MadeUpAudit
from tests.made_up_evaluations import MadeUpEvaluation


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    store = open_store(str(tmp_path_factory.mktemp("drawn")))
    better = {"saliency": 0.6, "uni": 0.8, "random": 0.0}
    made = (MadeUpEvaluation(), MadeUpEvaluation(name="other", methods=better))
    return Run(store, made[0].write(store).run_id), Run(store, made[1].write(store).run_id)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_panel_for_every_metric(runs: tuple[Run, Run], tmp_path: Path, kind: str) -> None:
    found = compare_runs(*runs)
    path = plot_comparison(found, tmp_path / f"x.{kind}")
    data = path.read_bytes()
    assert len(data) > 3000
    if kind == "svg":
        assert plot_comparison(found, tmp_path / "y.svg").read_bytes() == data
    (scores,) = found.sections
    assert [row["metric"] for row in scores.rows] == sorted(row["metric"] for row in scores.rows)
    assert "Higher is better: attack_spearman, insertion_auc, path_monotonicity" in scores.notes
    assert "Lower is better: deletion_auc, infidelity" in scores.notes
    assert "Neither way is better: complexity_sparseness" in scores.notes
    assert "saliency of" not in " ".join(scores.notes)
    assert "Only in A, left out: rows of integrated_gradients of attack_spearman" in " ".join(
        scores.notes
    )


def test_many_levels_of_an_audit(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    levels = tuple(step / 12 for step in range(1, 13))
    made = [MadeUpAudit(name=name, levels=levels, noise=noise) for name, noise in
            (("one", 0.004), ("two", 0.01))]  # fmt: skip
    found = compare_runs(*(Run(store, one.write(store).run_id) for one in made))
    assert plot_comparison(found, tmp_path / "x.png").stat().st_size > 10_000


def test_names_are_no_mathematics(runs: tuple[Run, Run], tmp_path: Path) -> None:
    row: dict[str, Any] = {"method": "$a_{", "measure": "$<&", "n": 2, "p": 0.1, "p_corrected": 0.1}
    row |= {"a": 0.0, "b": 1.0, "difference": 1.0, "low": 0.5, "high": 1.5}
    names = ("method", "measure")
    odd = Section("$title_{", "differences", names, [row])
    found = Comparison(*runs, [], "", [odd])
    text = plot_comparison(found, tmp_path / "x.svg").read_text()
    assert len(text) > 3000
    assert "<svg" in text


def test_nothing_to_draw(runs: tuple[Run, Run], tmp_path: Path) -> None:
    alike = Section("t", "likeness", ("m",), [likeness_row({"m": "x"}, np.ones(3))])
    with pytest.raises(UsageError, match="no difference with an interval to draw"):
        plot_comparison(Comparison(*runs, [], "", [alike]), tmp_path / "x.png")
    with pytest.raises(UsageError, match="expected a name that ends in"):
        plot_comparison(compare_runs(*runs), tmp_path / "x.gif")
