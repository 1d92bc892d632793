"""The same manifest, with nothing changed but the store's URL, on two S3 servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.operation import Store
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run

Make = Callable[..., Any]


@pytest.fixture(params=["s3_moto", "s3_rclone"])
def bucket(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(request.param)


def _files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_run_on_s3_equals_a_local_one(
    bucket: Store, make_manifest: Make, table_of: Make, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    train = {"data": {"format": "digits", "limit": 100}, "epochs": 2, "lr": 0.01}
    model = {"arch": "mlp", "hidden": [8], "train": train}
    methods = ["saliency", "random"]
    local = run(make_manifest(model=model, methods=methods))
    before = _files(tmp_path)
    store = bucket.model_dump(exclude_none=True) | {"maps": "float32"}
    remote = run(make_manifest(model=model, methods=methods, store=store))
    assert _files(tmp_path) == before, "a run on S3 wrote to the local disk"
    # The store's place is no part of a run's identity.
    assert remote.run_id == local.run_id
    spec = Store.model_validate(store)
    opened, same = open_run(remote.run_id, store=spec), open_run(local.uri)
    for name in ("predictions", "attributions", "maps", "training"):
        assert table_of(opened, name).equals(table_of(same, name)), name
    answer = opened.sql("SELECT count(*) AS n FROM attributions JOIN predictions USING (row)")
    assert answer.to_pylist() == [{"n": 180}]
    (first, *_) = opened.sql("SELECT sample_id FROM predictions ORDER BY row").to_pylist()
    assert opened.map(first["sample_id"], "saliency").shape == (1, 8, 8)
    report = verify_run(open_store(spec), remote.run_id)
    assert report.ok, report.problems
    again = run(make_manifest(model=model, methods=methods, store=store))
    assert again.already_complete


def test_nothing_outside_the_root_is_touched(bucket: Store, make_manifest: Make) -> None:
    outside = open_store(bucket.model_copy(update={"url": bucket.url + "-other"}))
    outside.put("runs/kept/file", b"not yours")
    store = bucket.model_dump(exclude_none=True)
    run(make_manifest(methods=["saliency"], store=store))
    assert [info.key for info in outside.list("")] == ["runs/kept/file"]
    keys = [info.key for info in open_store(bucket).list("")]
    assert keys
    assert all(key.startswith("runs/") for key in keys)


def test_an_audit_on_s3_equals_a_local_one(bucket: Store, audit_of_jobs: Make) -> None:
    local = open_run(run(audit_of_jobs()).uri)
    spec = bucket.model_dump(exclude_none=True)
    remote = run(audit_of_jobs(store=spec))
    # Nor is it of an audit's, nor of its jobs'.
    assert remote.run_id == local.run_id
    opened = open_run(remote.run_id, store=Store.model_validate(spec))
    assert opened.tables == local.tables
    for name in ("maps.predictions", "maps.attributions", "trust.diffroar"):
        assert opened.table(name).equals(local.table(name)), name
    answer = opened.sql("SELECT count(*) AS n FROM maps.predictions, trust.diffroar, jobs")
    assert answer.to_pylist() == [{"n": 40 * 4 * 2}]
    assert opened.job("maps").run_id == local.job("maps").run_id
    report = verify_run(opened.store, remote.run_id)
    assert report.ok, report.problems
    assert run(audit_of_jobs(store=spec)).already_complete
