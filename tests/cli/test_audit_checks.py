"""Checks of an audit and of its jobs, and an audit beside itself."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from tests.cli.conftest import Command

AUDIT = """\
kind: audit
name: nightly
common:
  data: {format: digits, limit: 12}
  model: {arch: mlp, hidden: [8], train: {data: {format: digits, limit: 60}, epochs: 2}}
  methods: [saliency, random]
runtime: {address: inline}
store: STORE
jobs:
  maps: {kind: attribute}
  judge:
    kind: evaluate
    metrics: [insertion]
    checks: [{check: summary, metric: insertion_auc, method: random, above: 1}]
checks:
  - {job: maps, check: predictions, at_least: 0}
  - {check: sql, name: rows, sql: 'SELECT count(*) FROM maps.predictions', at_least: 12}
"""


def test_checks_of_jobs(gradattr: Command, tmp_path: Path) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    path.write_text(AUDIT.replace("STORE", str(tmp_path / "store")))
    done = gradattr("run", str(path))
    assert done.code == 1
    assert "Committed nightly-" in done.out
    assert "maps: accuracy of the model, mean >= 0" in done.out
    assert "1 of 3 checks" in done.err
    junit = tmp_path / "junit.xml"
    assert gradattr("check", str(path), "--junit", str(junit)).code == 1
    cases = ElementTree.parse(junit).getroot()[0]
    assert [case.get("classname") for case in cases] == [
        "nightly.rows",
        "nightly.maps.accuracy",
        "nightly.judge.insertion_auc",
    ]
    assert [case[0].tag for case in cases] == ["system-out", "system-out", "failure"]

    # Another bound of a job is neither another job nor another audit.
    other.write_text(path.read_text().replace("above: 1}", "below: 1}"))
    done = gradattr("run", str(other))
    assert done.code == 0, done.err
    assert "already complete" in done.out
    assert "3 checks passed." in done.out
    other.write_text(path.read_text().replace("method: random, above", "method: rndom, above"))
    for command in ("validate", "check"):
        done = gradattr(command, str(other))
        assert done.code == 2, command
        assert "job 'judge': checks[0].method: 'rndom'" in done.err
    done = gradattr("compare", str(path), str(path), "--json")
    assert done.code == 0, done.err
    sections = {section["title"]: section for section in json.loads(done.out)["sections"]}
    assert {"maps: What the model says", "judge: Scores"} <= set(sections)
    assert {row["difference"] for row in sections["judge: Scores"]["rows"]} == {0}
