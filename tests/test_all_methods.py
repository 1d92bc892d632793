"""The examples that run every method, on a few digits: each has its maps, at the cost planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradattr.attribution.catalogue import catalogue
from gradattr.report.contact_sheet import contact_sheet
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.work.manifests import load_manifest
from gradattr.work.planning.estimate import estimate
from gradattr.work.planning.prepare import prepare

MANIFESTS = Path(__file__).parent.parent / "manifests"
EXAMPLES = ("all_methods_digits.yaml", "attention_digits.yaml")
ROWS = 5
#: Maps that may be 0 everywhere: Grad-CAM's where nothing speaks for the class.
MAY_HAVE_NONE = {"grad_cam", "grad_cam_plus_plus", "guided_grad_cam"}


def test_together_they_name_every_method() -> None:
    named = {method.name for file in EXAMPLES for method in load_manifest(MANIFESTS / file).methods}
    assert named == {info.name for info in catalogue()}


@pytest.mark.parametrize("file", EXAMPLES)
def test_each_has_maps_and_costs_what_was_planned(file: str, tmp_path: Path) -> None:
    changes = [
        "data={format: digits, limit: 5}",
        f"store.url={tmp_path / 'store'}",
        "runtime.address=inline",
        "model.train.epochs=3",
    ]
    manifest = load_manifest(MANIFESTS / file, overrides=changes)
    planned = estimate(prepare(manifest), open_store(manifest.store), probe=False)
    costs = {entry["method"]: entry["evaluations"] for entry in planned["methods"]}
    found = open_run(run(manifest).uri)
    rows = found.sql("SELECT method, evaluations, status FROM attributions").to_pylist()
    assert len(rows) == ROWS * len(costs)
    for row in rows:
        assert row["evaluations"] == costs[row["method"]], row
        name = row["method"]
        assert row["status"] == "ok" or (row["status"] == "degenerate" and name in MAY_HAVE_NONE)
    ids = found.sql("SELECT DISTINCT sample_id FROM predictions").to_pylist()
    for method in set(costs) - MAY_HAVE_NONE:
        for sample in ids:
            one = found.map(sample["sample_id"], method)
            assert one.shape == (1, 8, 8)
            assert np.isfinite(one).all()
            assert np.ptp(one) > 0, method
    assert contact_sheet(found, tmp_path / "sheet.png", samples=3).stat().st_size > 20_000


def test_maps_do_not_depend_on_shards_or_batches(tmp_path: Path) -> None:
    """What is random in a method is drawn for the image, whoever works on it with which others."""
    shared = [
        "data={format: digits, limit: 5}",
        f"store.url={tmp_path / 'store'}",
        "runtime.address=inline",
        "model.train.epochs=3",
    ]
    file = MANIFESTS / "all_methods_digits.yaml"
    whole = open_run(run(load_manifest(file, overrides=shared)).uri)
    cut = [*shared, "shard_rows=2", "engine.batch_size=3", "name=cut"]
    parts = open_run(run(load_manifest(file, overrides=cut)).uri)
    for row in whole.sql("SELECT sample_id, method, status FROM attributions").to_pylist():
        if row["status"] != "ok":
            continue
        one, other = (r.map(row["sample_id"], row["method"]) for r in (whole, parts))
        size = np.abs(one).max()
        # float16 storage, and ReLUs that flip on rounding in long walks.
        limit = 0.05 if row["method"] in ("agi", "guided_ig", "uni", "ig_uni") else 0.003
        assert np.abs(one - other).max() <= limit * size, row
