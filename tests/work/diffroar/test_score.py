"""From trials to scores: each cell against numpy over the very rows that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.errors import ShardError
from gradattr.plan import Task
from gradattr.report.results import Run
from gradattr.storage.objects import open_store
from gradattr.storage.run_json import create_run
from gradattr.work.diffroar.score import Trials, collect, diffroar, pred_power, score_trials
from tests.made_up_audits import EFFECTS, LEVELS, MadeUpAudit


def scored(audit: MadeUpAudit) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    trials = Trials()
    for rows, extra in audit.shards().values():
        collect(trials, rows, extra.get("pairs", []))
    return pred_power(trials, audit.schemes), diffroar(trials, audit.schemes)


def test_a_cell_is_the_mean_over_its_trials() -> None:
    audit = MadeUpAudit()
    power, _ = scored(audit)
    assert len(power) == 4 * (8 + 7) * 2
    for cell in power:
        mine = [
            row["accuracy"]
            for row in audit.rows
            if row["scheme"] in (cell["scheme"], None)
            and all(row[name] == cell[name] for name in ("variant", "level", "arm"))
        ]
        assert cell["n"] == len(mine) == 5
        assert cell["mean"] == pytest.approx(np.mean(mine))
        assert cell["sd"] == pytest.approx(np.std(mine, ddof=1))
        assert cell["low"] < cell["mean"] < cell["high"]
        assert cell["best_mean"] == pytest.approx(np.mean(mine) + 0.01)


def test_made_up_effects_are_found() -> None:
    _, scores = scored(MadeUpAudit())
    verdicts = {
        (s["scheme"], s["level"]): s["verdict"] for s in scores if s["variant"] == "retrain"
    }
    for level in LEVELS[:5]:
        assert verdicts["robust/saliency", level] == "satisfies"
        assert verdicts["standard/saliency", level] == "violates"
    assert {verdicts[scheme, 1.0] for scheme in EFFECTS} == {"floor"}
    for score in scores:
        if score["variant"] == "retrain":
            expected = EFFECTS[score["scheme"]] * (1 - score["level"])
            assert score["diffroar"] == pytest.approx(expected, abs=0.012)
            assert 0 < score["noise_floor"] < 0.02
            assert score["best_diffroar"] == pytest.approx(score["diffroar"])
        else:
            assert score["noise_floor"] is None
            assert abs(score["diffroar"]) < 0.012


def test_differences_are_paired_by_seed() -> None:
    """A seed that moves both arms widens PredPower's interval, and not DiffROAR's."""
    audit = MadeUpAudit(seeds=3, levels=(0.5,), variants=("retrain",), noise=0.0)
    for row in audit.rows:
        row["accuracy"] += (0.0, 0.2, 0.1)[row["seed"]]
    power, scores = scored(audit)
    assert all(cell["sd"] == pytest.approx(0.1) for cell in power)
    assert all(score["sd"] == pytest.approx(0, abs=1e-12) for score in scores)


def test_trials_of_everything_count_for_every_scheme() -> None:
    audit = MadeUpAudit(seeds=2)
    assert sum(row["level"] == 1 for row in audit.rows) == 2 * 2
    _, scores = scored(audit)
    floor = [score for score in scores if score["level"] == 1]
    assert [score["scheme"] for score in floor] == list(EFFECTS)
    assert len({score["diffroar"] for score in floor}) == 1


def test_one_seed_has_numbers_and_no_verdict() -> None:
    power, scores = scored(MadeUpAudit(seeds=1))
    assert {cell["sd"] for cell in power} == {cell["high"] for cell in power} == {None}
    assert {score["verdict"] for score in scores} == {"undecided", "floor", "control"}
    assert {score["noise_floor"] for score in scores} == {None}


def test_the_control_has_numbers_and_judges_no_order() -> None:
    _, scores = scored(MadeUpAudit())
    verdicts = {(score["variant"], score["verdict"] == "control") for score in scores}
    assert verdicts == {("retrain", False), ("mask_only", True)}


def test_roar_has_accuracies_and_no_difference() -> None:
    power, scores = scored(MadeUpAudit(variants=("retrain", "roar")))
    assert {cell["arm"] for cell in power if cell["variant"] == "roar"} == {"rest"}
    assert {score["variant"] for score in scores} == {"retrain"}


def test_without_retraining_the_interval_is_over_images() -> None:
    audit = MadeUpAudit(variants=("no_retrain",))
    power, scores = scored(audit)
    assert {cell["n"] for cell in power} == {score["n"] for score in scores} == {1000}
    for score in scores:
        counts = audit.pair(EFFECTS[score["scheme"]], score["level"])
        top, bottom = counts["top_only"], counts["bottom_only"]
        assert score["diffroar"] == (top - bottom) / 1000
        differences = np.repeat([1, -1, 0], [top, bottom, 1000 - top - bottom])
        assert score["sd"] == pytest.approx(differences.std(ddof=1))
        assert score["best_diffroar"] is None
    found = {(s["scheme"], s["level"]): s["verdict"] for s in scores}
    assert found["robust/saliency", 0.1] == "satisfies"
    assert found["standard/saliency", 0.1] == "violates"
    assert found["random", 0.1] == "undecided"


def test_the_tables_of_a_whole_run(tmp_path: Path) -> None:
    audit, store = MadeUpAudit(), open_store(str(tmp_path))
    run = Run(store, audit.write(store).run_id)
    power, scores = scored(audit)
    assert run.table("pred_power").to_pylist() == power
    assert run.table("diffroar").to_pylist() == scores


def test_a_missing_trial_is_named(tmp_path: Path) -> None:
    audit, store = MadeUpAudit(), open_store(str(tmp_path))
    context = audit.context(store)
    create_run(store, audit.run_json(context))
    with pytest.raises(ShardError, match="no valid record of this run; run the same command"):
        score_trials(
            context, Task("score", "scores", 1, {"schemes": audit.schemes, "stage": "trial"})
        )


def test_a_trial_with_neither_seed_nor_counts_is_named() -> None:
    audit = MadeUpAudit(variants=("no_retrain",))
    trials = Trials()
    for rows, _ in audit.shards().values():
        collect(trials, rows)
    with pytest.raises(ShardError, match="neither a seed nor counts"):
        diffroar(trials, audit.schemes)
