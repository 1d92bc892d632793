"""Checks on committed runs of every kind: the numbers are those of the tables, and what is not
there passes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from gradattr.manifest.checks import CheckSpec
from gradattr.metrics.checks import Verdict
from gradattr.report.results import Run
from gradattr.report.verdicts import check_run, verdict_json
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.work.context import RunContext
from tests.made_up_audits import MadeUpAudit
from tests.made_up_evaluations import MadeUpEvaluation
from tests.made_up_tfa import MadeUpTfa

_CHECKS: TypeAdapter[list[CheckSpec]] = TypeAdapter(list[CheckSpec])


def judged(run: Run, *checks: dict[str, Any]) -> list[Verdict]:
    return check_run(run, _CHECKS.validate_python(list(checks)))


def value_of(run: Run, **check: Any) -> float:
    """The number that a check looks at; NaN where there is none."""
    (verdict,) = judged(run, {**check, "above": -1e9})
    assert verdict.passed is not math.isnan(verdict.value)
    return verdict.value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return open_store(str(tmp_path_factory.mktemp("checked")))


@pytest.fixture(scope="module")
def evaluation(store: ObjectStore) -> Run:
    return Run(store, MadeUpEvaluation().write(store).run_id)


@pytest.fixture(scope="module")
def audit(store: ObjectStore) -> Run:
    return Run(store, MadeUpAudit(name="audit").write(store).run_id)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Run:
    own = open_store(str(tmp_path_factory.mktemp("tfa")))
    return Run(own, MadeUpTfa().write(own).run_id)


def test_numbers_of_an_attribution(opened: Run) -> None:
    predictions, maps = opened.frame("predictions"), opened.frame("attributions")
    confidence = predictions["confidence"].to_numpy(np.float64)
    for statistic, expected in {
        "mean": confidence.mean(),
        "median": np.median(confidence),
        "minimum": confidence.min(),
        "maximum": confidence.max(),
    }.items():
        found = value_of(opened, check="predictions", measure="confidence", statistic=statistic)
        assert found == pytest.approx(expected)
    ends = [value_of(opened, check="predictions", statistic=end) for end in ("low", "high")]
    accuracy = value_of(opened, check="predictions")
    assert accuracy == predictions["correct"].mean()
    assert ends[0] < accuracy < ends[1]
    gaps = maps[maps["method"] == "integrated_gradients"]["completeness_gap_relative"]
    of_gaps = {"check": "attributions", "measure": "completeness_gap_relative"}
    found = value_of(opened, **of_gaps, method="integrated_gradients", statistic="median")
    assert found == pytest.approx(float(np.median(gaps)))
    assert math.isnan(value_of(opened, **of_gaps, method="random"))
    assert value_of(opened, check="attributions", measure="not_ok", method="random") == 0
    assert (
        value_of(opened, check="training", measure="accuracy")
        == (opened.frame("training")["accuracy"].iloc[-1])
    )


def test_sql_checks(opened: Run) -> None:
    def asked(sql: str) -> Verdict:
        (verdict,) = judged(opened, {"check": "sql", "name": "mine", "sql": sql, "at_least": 1})
        return verdict

    found = asked("SELECT count(*) FROM predictions")
    assert (found.passed, found.value, found.check) == (True, 40.0, "mine >= 1")
    assert asked("SELECT 1.5").value == 1.5
    assert asked("SELECT count(*) > 3 FROM predictions").value == 1.0
    for sql, text in {
        "SELECT 1, 2": "1 rows of 2 columns; expected one number",
        "SELECT row FROM predictions": "40 rows of 1 columns; expected one number",
        "SELECT 'a'": "answers str 'a'; expected a number",
        "SELECT null": "answers null",
        "SELECT nothing FROM predictions": 'Referenced column "nothing" not found',
        "COPY predictions TO 'x'": "a COPY statement is refused",
        "SELECT 'inf'::DOUBLE": "mine has no value (NaN)",
    }.items():
        found = asked(sql)
        assert not found.passed
        assert text in found.text
        assert verdict_json(found)["value"] is None


def test_numbers_of_an_evaluation(evaluation: Run) -> None:
    rows = {(r["metric"], r["method"]): r for r in evaluation.table("summary").to_pylist()}
    for name in (("deletion_auc", "uni"), ("insertion_auc", "random")):
        check = {"check": "summary", "metric": name[0], "method": name[1]}
        for statistic in ("mean", "low", "high", "rank", "mean_rank"):
            assert value_of(evaluation, **check, statistic=statistic) == rows[name][statistic]
    missing = {"check": "summary", "metric": "deletion_auc", "method": "nobody", "above": 0}
    (verdict,) = judged(evaluation, missing)
    assert not verdict.passed
    assert "table 'summary' has no row of metric deletion_auc, method nobody" in verdict.text


@pytest.mark.parametrize(
    ("metric", "method", "other", "passed", "said"),
    [
        ("insertion_auc", "uni", "random", True, "higher is better"),
        ("insertion_auc", "random", "uni", False, "it is on the worse side"),
        ("deletion_auc", "uni", "random", True, "lower is better"),
        ("deletion_auc", "random", "uni", False, "it is on the worse side"),
        ("complexity_sparseness", "uni", "random", False, "neither direction is better"),
        ("path_monotonicity", "uni", "random", False, "there is no difference"),
    ],
)
def test_better_than(
    evaluation: Run, metric: str, method: str, other: str, passed: bool, said: str
) -> None:
    check = {"check": "summary", "metric": metric, "method": method, "better_than": other}
    (verdict,) = judged(evaluation, check)
    assert verdict.passed is passed
    assert said in verdict.text
    assert verdict.check == f"{metric} of {method} better than {other}'s (corrected p < 0.05)"


def test_a_difference_that_may_be_chance(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    alike = {"first": 0.5, "second": 0.5000001}
    run = Run(store, MadeUpEvaluation(methods=alike, images=6).write(store).run_id)
    check = {"check": "summary", "metric": "insertion_auc"}
    verdicts = judged(
        run,
        {**check, "method": "first", "better_than": "second"},
        {**check, "method": "second", "better_than": "first"},
    )
    assert not any(verdict.passed for verdict in verdicts)
    assert sum("it may be chance" in verdict.text for verdict in verdicts) == 1
    assert sum("worse side" in verdict.text for verdict in verdicts) == 1


def test_numbers_of_an_audit(audit: Run) -> None:
    rows = audit.table("diffroar").to_pylist()
    found = {(row["scheme"], row["level"], row["variant"]): row for row in rows}
    check = {"check": "diffroar", "scheme": "robust/saliency", "level": 0.1}
    row = found["robust/saliency", 0.1, "retrain"]
    assert value_of(audit, **check) == row["diffroar"]
    assert value_of(audit, **check, statistic="low", learner="standard") == row["low"]
    control = found["robust/saliency", 0.1, "mask_only"]
    assert value_of(audit, **check, variant="mask_only") == control["diffroar"]
    assert math.isnan(value_of(audit, **{**check, "level": 0.15}))
    passed, failed = judged(
        audit,
        {**check, "statistic": "low", "above": 0, "name": "robust is right"},
        {**check, "scheme": "standard/saliency", "above": 0},
    )
    assert passed.passed
    assert passed.check == "robust is right: diffroar of robust/saliency, level 0.1, low > 0"
    assert not failed.passed


def test_numbers_of_training_attributions(training: Run) -> None:
    row = training.table("tfa_summary").to_pylist()[0]
    keys = {key: row[key] for key in ("method", "side", "map_method", "test", "steps", "level")}
    check = {"check": "tfa_summary", **keys}
    assert value_of(training, **check) == row["difference"]
    assert value_of(training, **check, statistic="high") == row["high"]
    maps = training.frame("tfa_map_scores")
    own = maps[
        (maps["method"] == "grad_cos")
        & (maps["side"] == "helpful")
        & (maps["map_method"] == "plain")
    ]
    found = value_of(
        training,
        check="tfa_map_scores",
        method="grad_cos",
        map_method="plain",
        measure="top_overlap",
    )
    assert found == pytest.approx(own["top_overlap"].mean())


def test_bounds_are_verdicts_of_their_own(opened: Run) -> None:
    check = {"check": "predictions", "measure": "confidence", "above": 0, "below": 0.01}
    verdicts = judged(opened, check)
    assert [verdict.passed for verdict in verdicts] == [True, False]
    assert [verdict.check for verdict in verdicts] == [
        "confidence of the model, mean > 0",
        "confidence of the model, mean < 0.01",
    ]
    (verdict,) = judged(opened, {"check": "leakage", "method": "random", "level": 0.1, "above": 0})
    assert not verdict.passed
    assert "the run has no table 'leakage'" in verdict.text


class _Nightly(MadeUpEvaluation):
    """One of several runs of one manifest."""

    def context(self, store: ObjectStore) -> RunContext:
        found = super().context(store)
        return replace(found, manifest_json=found.manifest_json | {"name": "nightly"})


def test_runs_before(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    worse = {"saliency": 0.1, "integrated_gradients": 0.62, "uni": 0.8, "random": 0.0}

    first = Run(store, _Nightly(name="one").write(store).run_id)
    check: dict[str, Any] = {"check": "summary", "metric": "insertion_auc", "method": "saliency"}
    last = {**check, "not_worse_than": "last", "by": 0.01}
    (alone,) = judged(first, last)
    assert alone.passed
    assert not alone.made
    assert "no earlier run of 'nightly' in this store to compare with yet" in alone.text
    MadeUpEvaluation(name="other").write(store)
    second = Run(store, _Nightly(name="two", methods=worse).write(store).run_id)
    (verdict,) = judged(second, last)
    assert not verdict.passed
    assert f"earlier run {first.run_id}" in verdict.text
    assert "was 0." in verdict.text
    # Looked at again, a run is still compared with those before it.
    (again,) = judged(first, last)
    assert not again.made
    named = {**check, "not_worse_than": f"run:{second.run_id}"}
    assert judged(first, named)[0].passed
    assert judged(second, {**last, "by": 0.5})[0].passed
    lower = {**last, "metric": "deletion_auc"}
    assert not judged(second, lower)[0].passed
    assert judged(second, {**lower, "by_interval": True, "by": 0.2})[0].passed
    either = {**last, "metric": "complexity_sparseness"}
    (verdict,) = judged(second, either)
    assert not verdict.passed
    assert "state higher_is_better" in verdict.text
    assert judged(second, {**either, "higher_is_better": False})[0].passed
    (verdict,) = judged(second, {**check, "not_worse_than": "run:gone"})
    assert not verdict.passed
    assert "earlier run gone" in verdict.text
    (verdict,) = judged(first, {**check, "method": "nobody", "not_worse_than": "last"})
    assert not verdict.passed
