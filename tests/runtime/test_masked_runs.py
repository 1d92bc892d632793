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


@pytest.fixture
def patched_run(make_manifest: Any) -> Any:
    """Train on digits whose threes have a patch, and attribute test images that all have it."""

    def run(fraction: float) -> Any:
        patch = {"size": 2, "colour": [255], "corner": "top_left"}
        train = {"format": "digits", "split": "train"}
        train["patch"] = {**patch, "class": "3", "fraction": fraction}
        recipe = {"data": train, "epochs": 30, "lr": 0.05, "batch_size": 64}
        manifest = make_manifest(
            data={"format": "digits", "split": "test", "patch": {**patch, "fraction": 0.5}},
            model={"arch": "mlp", "hidden": [32], "train": recipe},
            methods=["integrated_gradients"],
            target=3,
            leakage_levels=[0.1],
            shard_rows=100,
        )
        return gradattr.open_run(gradattr.run(manifest).uri)

    return run


def test_the_leakage_of_patched_data_is_the_share_inside_the_patch(patched_run: Any) -> None:
    shares = {}
    for fraction in (0.0, 1.0):
        run = patched_run(fraction)
        rows = run.sql(
            "SELECT patched, avg(region_share) AS area, avg(share) AS share, "
            "avg((predicted = 3)::int) AS threes, count(*) AS n "
            "FROM leakage JOIN predictions USING (row) GROUP BY 1 ORDER BY 1"
        ).to_pylist()
        clean, patched = rows
        assert (clean["patched"], clean["n"]) == (False, 180)
        assert (patched["patched"], patched["n"]) == (True, 180)
        assert clean["area"] == clean["share"] == 0
        assert patched["area"] == 4 / 64
        shares[fraction] = (patched["share"], patched["threes"], clean["threes"])
    # To the model that met the patch on threes alone it says "three"; the other does not know it.
    (share, threes, clean_threes), (unknown, as_before, _) = shares[1.0], shares[0.0]
    assert share > 5 * 4 / 64 and unknown < share / 2
    assert threes > 2 * as_before and clean_threes < as_before


def test_a_patch_ranks_first_or_last_in_an_audit(audit: Any) -> None:
    patch = {"class": 3, "size": 2}
    manifest = audit(
        data={"format": "digits", "split": "train", "limit": 200, "patch": patch},
        test={"format": "digits", "split": "test", "limit": 100, "patch": patch},
        methods=["saliency"],
        baselines=["signal_first", "null_first"],
        levels=[0.5, 1.0],
        seeds=1,
        mask_only=False,
    )
    run = gradattr.open_run(gradattr.run(manifest).uri)
    schemes = run.sql("SELECT DISTINCT scheme FROM diffroar ORDER BY 1").to_pylist()
    assert {"signal_first", "null_first"} <= {row["scheme"] for row in schemes}
