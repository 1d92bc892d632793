"""``gradattr metrics``: what every metric measures and costs; and what those of a plan cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.metrics import metric_models


def test_every_metric_is_listed_with_its_numbers(gradattr: Any) -> None:
    entries = {entry["name"]: entry for entry in json.loads(gradattr("metrics", "--json").out)}
    assert list(entries) == list(metric_models())
    told = gradattr("metrics").out
    for name, entry in entries.items():
        assert name in told
        assert entry["meaning"]
        assert entry["cost"]
        assert entry["measures"] or name == "agreement"
        for measure in entry["measures"]:
            assert measure["name"] in told
            assert measure["meaning"]
        # Words for people at every parameter, from the manifest's own models.
        assert all(parameter["meaning"] for parameter in entry["parameters"]), name
    assert entries["deletion"]["measures"][0]["higher_is_better"] is False
    assert entries["insertion"]["curves"] == [
        {"name": "insertion", "x": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]}
    ]
    assert entries["randomisation"]["curves"][0] == {"name": "randomisation_spearman", "x": None}


def test_one_metric_is_described(gradattr: Any) -> None:
    told = " ".join(gradattr("metrics", "attack").out.split())
    for part in ("Ghorbani", "attack_spearman", "higher", "candidates + steps maps", "0.03137"):
        assert part in told, part
    (entry,) = json.loads(gradattr("metrics", "attack", "--json").out)
    defaults = {parameter["name"]: parameter["default"] for parameter in entry["parameters"]}
    assert defaults["steps"] == 20
    assert defaults["top"] is None
    assert "11 from 0 to 1 of the pixels" in gradattr("metrics", "deletion").out
    assert "by module" in gradattr("metrics", "randomisation").out


@pytest.mark.parametrize(
    ("given", "near"), [("deletoin", "'deletion'"), ("mufidelity", "'mu_fidelity'")]
)
def test_a_name_that_is_not_one(gradattr: Any, given: str, near: str) -> None:
    wrong = gradattr("metrics", given)
    assert wrong.code == 2
    assert f"metric '{given}' does not exist; did you mean {near}" in wrong.err


def test_a_plan_says_what_every_metric_costs(gradattr: Any, tmp_path: Path) -> None:
    path = tmp_path / "judge.yaml"
    data = {"format": "digits", "limit": 20}
    value = {
        "kind": "evaluate",
        "name": "judge",
        "data": data,
        "model": {"arch": "linear", "train": {"data": data, "epochs": 1}},
        "methods": ["saliency", "gradient"],
        "metrics": ["deletion", {"metric": "sensitivity", "images": 5}, "complexity", "agreement"],
        "store": str(tmp_path / "store"),
        "runtime": {"address": "inline"},
    }
    path.write_text(json.dumps(value))
    told = gradattr("plan", str(path), "--no-probe")
    assert told.code == 0, told.err
    lines = {line.split()[0]: line.split()[1:] for line in told.out.splitlines() if line.strip()}
    assert lines["deletion"] == ["18", "forward", "20", "360", "2"]
    assert lines["sensitivity"] == ["10", "5", "50", "2"]
    assert lines["complexity"] == ["0", "20", "0", "2"]
    assert lines["agreement"] == ["0", "20", "0", "2"]
    report = json.loads(gradattr("plan", str(path), "--no-probe", "--json").out)
    (judge,) = [stage for stage in report["stages"] if stage["name"] == "judge"]
    assert judge["evaluations"] == 20 * 1 + 360 + 50
    assert [one["metric"] for one in report["metrics"]][:2] == ["deletion", "sensitivity"]
