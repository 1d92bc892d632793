"""Plans of audits: those of the jobs, one task that collects them, and what all that costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradattr.errors import DataError, MethodError, StoreError, UsageError
from gradattr.manifest.audit import AuditManifest
from gradattr.plan import public_manifest
from gradattr.storage.audits import audit_jobs
from gradattr.storage.objects import open_store
from gradattr.work.planning.estimate import estimate
from gradattr.work.planning.estimate_audit import estimate_audit
from gradattr.work.planning.preflight import preflight_run
from gradattr.work.planning.prepare import make_plan, prepare
from gradattr.work.planning.prepare_audit import for_every_job
from tests.small_audits import DIGITS

Make = Callable[..., AuditManifest]


def test_jobs_are_planned_as_they_would_be_alone(audit_of_jobs: Make) -> None:
    manifest = audit_of_jobs()
    prepared = prepare(manifest)
    assert list(prepared.jobs) == ["maps", "trust"]
    for name, job in prepared.jobs.items():
        assert job.plan == make_plan(manifest.jobs[name])
        assert job.jobs == {}


def test_the_audit_names_its_jobs_in_order(audit_of_jobs: Make) -> None:
    prepared = prepare(audit_of_jobs())
    plan = prepared.plan
    assert plan.run_id == f"weekly-{plan.fingerprint[:8]}"
    assert [(stage.name, len(stage.tasks), stage.tables) for stage in plan.stages] == [
        ("collect", 1, ("jobs",))
    ]
    assert plan.rows == 2
    named = audit_jobs(plan.run_json())
    assert [(job.job, job.kind) for job in named] == [("maps", "attribute"), ("trust", "diffroar")]
    for job in named:
        own = prepared.jobs[job.job].plan
        assert (job.run_id, job.fingerprint) == (own.run_id, own.fingerprint)
        assert [stage[0] for stage in job.stages] == [stage.name for stage in own.stages]
    assert named[0].stages == (("attribute", 2, 40),)
    assert prepare(audit_of_jobs()).plan == plan


def test_what_makes_an_audit_another_one(audit_of_jobs: Make) -> None:
    plan = make_plan(audit_of_jobs())
    jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
    same: list[dict[str, Any]] = [
        {"runtime": {"address": "inline", "workers": 1}},
        {"engine": {"batch_size": 3}},
        {"checks": [{"check": "sql", "name": "n", "sql": "SELECT 1", "above": 0}]},
        {"store": {"url": "elsewhere"}},
    ]
    for changes in same:
        assert make_plan(audit_of_jobs(**changes)).run_id == plan.run_id, changes
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"name": "daily"},
        {"jobs": {"maps": jobs["maps"]}},
        {"jobs": {"trust": jobs["trust"], "maps": jobs["maps"]}},
        {"jobs": jobs | {"trust": jobs["trust"] | {"levels": [0.5]}}},
    ]
    for changes in others:
        assert make_plan(audit_of_jobs(**changes)).fingerprint != plan.fingerprint, changes


def test_no_secret_and_no_place_stands_in_the_plan(audit_of_jobs: Make) -> None:
    store = {"url": "s3://bucket/x", "secret_key": "${KEY}", "endpoint_url": "http://127.0.0.1:1"}
    value = audit_of_jobs(store=store).model_dump(mode="json")
    text = str(public_manifest(value))
    for secret in ("KEY", "bucket", "127.0.0.1", "inline"):
        assert secret not in text


def test_the_context_of_the_audit_is_as_good_as_its_manifest(audit_of_jobs: Make) -> None:
    context = prepare(audit_of_jobs(store={"url": "some/where"})).context
    manifest = context.manifest
    assert isinstance(manifest, AuditManifest)
    (store,) = {job.store.url for job in manifest.jobs.values()}
    assert store == manifest.store.url == open_store("some/where").spec.url


def test_misfits_are_collected() -> None:
    def act(fault: Exception | None) -> str:
        if fault is not None:
            raise fault
        return "fine"

    assert for_every_job({"a": None, "b": None}, act) == {"a": "fine", "b": "fine"}
    with pytest.raises(DataError, match=r"^job 'b': no data$"):
        for_every_job({"a": None, "b": DataError("no data")}, act)
    with pytest.raises(UsageError) as caught:
        for_every_job({"a": MethodError("no"), "b": None, "c": DataError("none")}, act)
    assert str(caught.value) == "2 of 3 jobs cannot work:\n  job 'a': no\n  job 'c': none"
    with pytest.raises(StoreError, match=r"^gone$"):
        for_every_job({"a": StoreError("gone"), "b": DataError("no data")}, act)


def test_notes_have_the_names_of_their_jobs(audit_of_jobs: Make) -> None:
    prepared = prepare(audit_of_jobs())
    notes = preflight_run(prepared)
    assert {note.partition(":")[0] for note in notes} == {"maps", "trust"}
    assert {note.partition(":")[0] for note in preflight_run(prepared, ["maps"])} == {"trust"}


def test_costs_are_those_of_the_jobs_and_their_sum(audit_of_jobs: Make) -> None:
    manifest = audit_of_jobs()
    prepared, store = prepare(manifest), open_store(manifest.store)
    report = estimate_audit(prepared, store, probe=False)
    for name, job in prepared.jobs.items():
        assert report["jobs"][name] == estimate(job, store, probe=False)
    *lines, total = report["sum"]
    assert [(line["job"], line["kind"]) for line in lines] == [
        ("maps", "attribute"),
        ("trust", "diffroar"),
    ]
    assert total["shards"] == sum(line["shards"] for line in lines) == 7
    assert total["evaluations"] == sum(line["evaluations"] for line in lines) == 80
    assert (total["done"], total["committed"], total["seconds"]) == (0, False, None)
    timed = estimate_audit(prepared, store, probe=True)["sum"]
    assert timed[-1]["seconds"] == pytest.approx(sum(line["seconds"] for line in timed[:-1]))
    assert timed[-1]["seconds"] > 0


def test_what_is_trained_once_is_told(audit_of_jobs: Make) -> None:
    def noted(epochs: int) -> list[str]:
        jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
        recipe = {"data": DIGITS, "test": DIGITS, "epochs": 2}
        mlp = {"arch": "mlp", "hidden": [4]}
        jobs["maps"]["model"] = mlp | {"train": recipe}
        jobs["trust"]["models"]["standard"] = mlp | {"train": recipe | {"epochs": epochs}}
        manifest = audit_of_jobs(jobs=jobs)
        report = estimate_audit(prepare(manifest), open_store(manifest.store), probe=False)
        return list(report["notes"])

    (note,) = noted(epochs=2)
    assert note.startswith("Jobs maps, trust need the same training: the first does it")
    assert noted(epochs=3) == []
