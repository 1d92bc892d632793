"""Runs on data with masks: their leakage is a table of the run."""

from __future__ import annotations

from typing import Any

import pytest

import gradattr
from gradattr.work.planning.prepare import make_plan


def test_a_run_commits_every_planned_row(make_manifest: Any, table_of: Any) -> None:
    manifest = make_manifest(
        data={"format": "blockmnist", "limit": 30},
        model={"arch": "mlp", "hidden": [8], "train": {"data": "blockmnist", "epochs": 1}},
        methods=["saliency", "random"],
        shard_rows=11,
        leakage_levels=[0.1, 1.0],
    )
    plan = make_plan(manifest)
    assert plan.stages[-1].expected_rows["leakage"] == 30 * 2 * 2
    assert plan.inputs["data"]["masks"] is True
    run = gradattr.open_run(gradattr.run(manifest).uri)
    assert run.table("leakage").num_rows == 120
    shares = run.sql(
        "SELECT method, level, avg(share) AS share, min(region_share) AS chance, count(*) AS n "
        "FROM leakage JOIN predictions USING (row) WHERE leakage.status = 'ok' GROUP BY 1, 2"
    ).to_pylist()
    assert {(r["method"], r["level"]): r["n"] for r in shares} == {
        (method, level): 30 for method in ("saliency", "random") for level in (0.1, 1.0)
    }
    for row in shares:
        assert row["chance"] == 0.5
        if row["level"] == 1.0:
            assert row["share"] == pytest.approx(0.5)
        elif row["method"] == "random":
            assert row["share"] == pytest.approx(0.5, abs=0.03)
    by_place = run.sql("SELECT DISTINCT signal_on_top FROM predictions ORDER BY 1").to_pylist()
    assert [row["signal_on_top"] for row in by_place] == [False, True]
