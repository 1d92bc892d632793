"""One finished run for everything that looks at runs."""

from __future__ import annotations

from typing import Any

import pytest

from gradattr.manifest.loading import parse_manifest
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from tests.small_audits import audit_of_jobs
from tests.small_runs import weights

__all__ = ["audit_of_jobs", "make_run", "opened", "weights"]

MANIFEST = """\
kind: attribute
name: looked-at
data: {format: digits, limit: 40}
model:
  arch: mlp
  hidden: [8]
  train: {data: {format: digits, limit: 100}, epochs: 3, lr: 0.01}
methods: [saliency, input_x_gradient, {name: integrated_gradients, steps: 20}, random]
shard_rows: 16
runtime: {address: inline}
store: {url: STORE, maps: MAPS}
"""


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(maps: str) -> Run:
        store = str(tmp_path_factory.mktemp("report"))
        text = MANIFEST.replace("STORE", store).replace("MAPS", maps)
        return open_run(run(parse_manifest(text, file="report.yaml")).uri)

    return make


@pytest.fixture(scope="session")
def opened(make_run: Any) -> Run:
    return make_run("float32")
