"""Audits as a user meets them: one command for all jobs, and a line for each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.loading import parse_manifest
from gradattr.runtime.driver import run

AUDIT = """\
kind: audit
name: weekly
runtime: {address: inline}
store: STORE
common:
  data: {format: digits, split: test, limit: 40}
  methods: [saliency]
jobs:
  maps:
    kind: attribute
    model: &MODEL
    methods: [saliency, {name: integrated_gradients, steps: 5}, random]
  keep-or-not:
    kind: diffroar
    test: {format: digits, split: test, limit: 40}
    models: {standard: &MODEL}
    baselines: [random]
    levels: [0.3, 1.0]
    retrain: false
    mask_only: false
checks:
  - {job: maps, check: predictions, measure: accuracy, at_least: 0}
  - {check: sql, name: pairs, sql: 'SELECT count(*) FROM maps.errors', at_most: 0}
""".replace("&MODEL", "{arch: mlp, hidden: [8], train: {data: digits, epochs: 1}}")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a manifest that was carried out."""
    folder = tmp_path_factory.mktemp("audit_of_jobs")
    path = folder / "audit.yaml"
    path.write_text(AUDIT.replace("STORE", str(folder / "store")))
    run(parse_manifest(path.read_text(), file="audit.yaml"))
    return folder


@pytest.fixture
def call(gradattr: Callable[..., Any], done: Path) -> Callable[..., Any]:
    """A command on the store of the audit."""
    return lambda *words: gradattr(*words, "--store", str(done / "store"))


def _run_ids(done: Path) -> dict[str, str]:
    found = [path.name for path in (done / "store/runs").iterdir()]
    return {name.rpartition("-")[0]: name for name in found}


def test_run_again_makes_the_checks(gradattr: Callable[..., Any], done: Path) -> None:
    found = gradattr("run", str(done / "audit.yaml"))
    assert found.code == 0
    assert f"Run {_run_ids(done)['weekly']} is already complete: 2 jobs." in found.out
    assert "maps: accuracy of the model, mean >= 0" in found.out
    assert "2 checks passed." in found.out


def test_run_from_the_beginning_says_which_job_is_next(
    gradattr: Callable[..., Any], done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done / "store", tmp_path / "store")
    ids = _run_ids(done)
    for name in (ids["weekly"], ids["weekly-keep-or-not"]):
        shutil.rmtree(tmp_path / "store/runs" / name)
    path = tmp_path / "audit.yaml"
    path.write_text(AUDIT.replace("STORE", str(tmp_path / "store")))
    found = gradattr("run", str(path))
    assert f"job maps: {ids['weekly-maps']} is already complete" in found.err
    assert f"job keep-or-not (2 of 2): run {ids['weekly-keep-or-not']}" in found.err
    assert "keep-or-not rank: 80/80 rows" in found.err
    assert f"Committed {ids['weekly']}: 2 jobs." in found.out
    # A check that fails is exit code 1, and which.
    option = "jobs.maps.checks=[{check: predictions, measure: accuracy, above: 1}]"
    failed = gradattr("run", str(path), "--set", option)
    assert failed.code == 1
    assert "1 of 3 checks" in failed.err


def test_show_has_a_line_per_job(call: Callable[..., Any], done: Path) -> None:
    found = call("show", "weekly")
    assert f"Run {_run_ids(done)['weekly']}: 2 jobs, " in found.out
    for name, kind in (("maps", "attribute"), ("keep-or-not", "diffroar")):
        assert any(line.split()[:2] == [name, kind] for line in found.out.splitlines())
    assert "largest median gap" in found.out
    assert "standard/saliency: " in found.out
    assert "'SELECT * FROM maps.predictions'" in found.out
    summary = json.loads(call("show", "weekly", "--json").out)
    assert [job["job"] for job in summary["jobs"]] == ["maps", "keep-or-not"]
    assert summary["jobs"][0]["headlines"][0].startswith("accuracy ")


def test_a_name_means_the_audit_and_not_its_jobs(call: Callable[..., Any], done: Path) -> None:
    ids = _run_ids(done)
    assert f"Run {ids['weekly']}: committed" in call("status", "weekly").out
    assert f"Run {ids['weekly-maps']}: committed" in call("status", "weekly-maps").out
    assert f"Run {ids['weekly-maps']}: committed" in call("status", "weekly-m").out
    assert "ambiguous" in call("status", "week").err


def test_status_counts_every_job(call: Callable[..., Any]) -> None:
    found = call("status", "weekly")
    rows = [line.split() for line in found.out.splitlines()]
    assert ["all", "2", "of", "2", "committed", "8", "8"] in rows
    assert any(row[:2] == ["keep-or-not", "committed"] for row in rows)
    report = json.loads(call("status", "weekly", "--json").out)
    assert [job["job"] for job in report["jobs"]] == ["maps", "keep-or-not"]


def test_every_job_is_a_schema(call: Callable[..., Any]) -> None:
    sql = """
        SELECT d.scheme, count(*) AS maps
        FROM "keep-or-not".diffroar d, maps.attributions a WHERE d.level = 1 GROUP BY ALL
    """
    found = json.loads(call("query", "weekly", sql, "--json").out)
    assert {row["scheme"]: row["maps"] for row in found} == {
        "standard/saliency": 120,
        "random": 120,
    }
    wrong = call("query", "weekly", "SELECT * FROM attributions")
    assert wrong.code == 2
    assert 'Did you mean "maps.attributions"?' in wrong.err


def test_verify_reads_the_jobs_too(call: Callable[..., Any]) -> None:
    found = call("verify", "weekly")
    assert found.code == 0
    assert "2 jobs" in found.out
    assert "120 maps.attributions" in found.out


def test_what_an_audit_has_no_pictures_of(call: Callable[..., Any], tmp_path: Path) -> None:
    for words in (("show", "weekly", "--png", str(tmp_path / "x.png")), ("plot", "weekly")):
        found = call(*words)
        assert found.code == 2
        assert "name the run of one of its jobs: weekly-maps-" in found.err


def test_plan_and_validate(gradattr: Callable[..., Any], done: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(AUDIT.replace("STORE", str(tmp_path / "store")))
    found = gradattr("plan", str(path), "--no-probe")
    assert found.code == 0
    assert "Job maps\nRun weekly-maps-" in found.out
    assert "Job keep-or-not\nRun weekly-keep-or-not-" in found.out
    rows = [line.split() for line in found.out.splitlines()]
    assert any(row[:3] == ["all", "8", "0"] for row in rows)
    report = json.loads(gradattr("plan", str(path), "--no-probe", "--json").out)
    assert report["run_id"] == _run_ids(done)["weekly"]
    valid = gradattr("validate", str(path))
    assert valid.out.startswith(f"audit.yaml: valid. Run {report['run_id']}, 2 jobs.")
    assert "  maps: model mlp: " in valid.out
    assert not (tmp_path / "store").exists()


def test_init(gradattr: Callable[..., Any], tmp_path: Path) -> None:
    found = gradattr("init", "--kind", "audit", "--name", "mine")
    path = tmp_path / "mine.yaml"
    path.write_text(found.out.replace("store: results", f"store: {tmp_path / 'store'}"))
    valid = gradattr("validate", str(path))
    assert valid.code == 0, valid.err
    assert "Run mine-" in valid.out
