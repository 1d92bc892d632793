"""Whole audits under faults: whatever happens on the way, the tables of every job are those of an
undisturbed audit, or the audit says why not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from gradattr.canonical import canonical_json
from gradattr.errors import ConflictError, IntegrityError, ShardError
from gradattr.manifest.audit import AuditManifest
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.storage.gc import collect
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.sealed import seal
from gradattr.storage.verify import verify_run
from tests.disturbed import CHILDREN, flip, in_a_child, killed_at, when

Make = Callable[..., AuditManifest]


@pytest.fixture(scope="module")
def known() -> dict[str, Run]:
    return {}


@pytest.fixture
def undisturbed(
    audit_of_jobs: Make, known: dict[str, Run], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """What the audit gives where nothing goes wrong; carried out once."""
    if not known:
        known["run"] = open_run(
            run(audit_of_jobs(store={"url": str(tmp_path_factory.mktemp("undisturbed"))})).uri
        )
    return known["run"]


def _same(one: Run, two: Run) -> None:
    assert one.tables == two.tables
    for name in one.tables:
        if name != "jobs":  # which has the names of files, and so their nonces, in a digest
            assert one.table(name).equals(two.table(name)), name


def _finished(manifest: AuditManifest, undisturbed: Run) -> list[Event]:
    """Carry it out to its end; what was said."""
    told: list[Event] = []
    opened = open_run(run(manifest, listener=told.append).uri)
    assert opened.run_id == undisturbed.run_id
    _same(opened, undisturbed)
    assert verify_run(opened.store, opened.run_id).problems == []
    return told


def _stages(told: list[Event]) -> set[str]:
    return {event.stage for event in told if event.kind == "shard"}


def test_a_driver_killed_everywhere(audit_of_jobs: Make, undisturbed: Run) -> None:
    places = [
        (f"/{undisturbed.run_id}/run.json", 1, False),
        ("/weekly-maps-", 1, True),
        ("/shards/attribute/", 2, False),
        ("/data/predictions/all-", 1, True),
        ("_COMMIT.json", 1, True),
        ("_COMMIT.json", 1, False),
        ("/shards/score/", 1, True),
        ("_COMMIT.json", 1, False),
        ("/shards/collect/", 1, False),
        ("_COMMIT.json", 1, True),
    ]
    for place, nth, before in places:
        assert killed_at(place, nth, audit_of_jobs(), before=before), (place, nth)
    assert _stages(_finished(audit_of_jobs(), undisturbed)) == set()


def test_two_drivers_at_once(audit_of_jobs: Make, undisturbed: Run) -> None:
    both = CHILDREN.Barrier(2)
    children = [in_a_child(_run_together, both, audit_of_jobs()) for _ in range(2)]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert _stages(_finished(audit_of_jobs(), undisturbed)) == set()


def _run_together(both: Barrier, manifest: AuditManifest) -> None:
    """Both find nothing done when the first job begins, and again when the second does."""
    listeners = [when("maps attribute", both.wait), when("trust rank", both.wait)]

    def wait(event: Event) -> None:
        for listener in listeners:
            listener(event)

    run(manifest, listener=wait)


def test_a_job_whose_commit_is_lost_is_committed_again(
    audit_of_jobs: Make, undisturbed: Run
) -> None:
    opened = open_run(run(audit_of_jobs()).uri)
    commit = Path(opened.job("maps").uri, "_COMMIT.json")
    bytes_then = commit.read_bytes()
    commit.unlink()
    with pytest.raises(IntegrityError, match=r"is missing although the audit .* \(job 'maps'\)"):
        open_run(opened.uri)
    report = verify_run(opened.store, opened.run_id)
    assert not report.ok
    assert any("_COMMIT.json: is missing" in problem for problem in report.problems)
    told = _finished(audit_of_jobs(), undisturbed)
    assert _stages(told) == set(), "its shards were there"
    assert commit.read_bytes() == bytes_then


def test_damage_to_a_job_is_found_through_its_audit(audit_of_jobs: Make) -> None:
    opened = open_run(run(audit_of_jobs()).uri)
    trust = opened.job("trust")
    (file,) = trust.commit.tables["diffroar"].files
    flip(Path(trust.uri, file.key))
    report = verify_run(opened.store, opened.run_id)
    assert not report.ok
    (problem,) = report.problems
    assert problem.startswith("job 'trust': ")
    assert file.key in problem
    assert report.rows["maps.predictions"] == 40
    flip(Path(trust.uri, file.key))
    flip(Path(trust.uri, "_COMMIT.json"))
    report = verify_run(opened.store, opened.run_id)
    assert [one for one in report.problems if one.startswith("job 'trust': ")]
    with pytest.raises(IntegrityError, match=r"_COMMIT\.json"):
        run(audit_of_jobs())


def test_another_commit_in_place_of_a_jobs_is_no_part_of_the_audit(audit_of_jobs: Make) -> None:
    opened = open_run(run(audit_of_jobs()).uri)
    job = opened.job("maps")
    other = job.commit.to_json() | {"rows": {"attribute": 41}}
    Path(job.uri, "_COMMIT.json").write_bytes(seal(other))
    with pytest.raises(IntegrityError, match=r"is not the commit that the audit .* names for job"):
        open_run(opened.uri)
    with pytest.raises(IntegrityError, match="delete the folder"):
        run(audit_of_jobs())
    # As it advises.
    shutil.rmtree(opened.uri)
    assert open_run(run(audit_of_jobs()).uri).run_id == opened.run_id


def test_a_job_that_vanishes_before_the_audit_is_committed(
    audit_of_jobs: Make, undisturbed: Run
) -> None:
    def lose(event: Event) -> None:
        if event.message.startswith("job trust: committed"):
            next(_folder(audit_of_jobs()).glob("weekly-maps-*/_COMMIT.json")).unlink()

    with pytest.raises(ShardError, match="so job 'maps' is not complete; run the audit again"):
        run(audit_of_jobs(), listener=lose)
    assert _stages(_finished(audit_of_jobs(), undisturbed)) == {"collect"}


def test_gc_leaves_what_audits_name(audit_of_jobs: Make, undisturbed: Run) -> None:
    opened = open_run(run(audit_of_jobs()).uri)
    store, commit = opened.store, Path(opened.job("maps").uri, "_COMMIT.json")
    before = _files(store)
    commit.unlink()
    report = collect(store, 0, abandoned=True)
    assert report.deleted == []
    assert _files(store) == before - {str(commit)}
    _finished(audit_of_jobs(), undisturbed)
    # Without its audit it is a run like any other.
    shutil.rmtree(opened.uri)
    commit.unlink()
    report = collect(store, 0, abandoned=True)
    assert {key.split("/")[1] for key in report.deleted} == {commit.parent.name}


def test_an_abandoned_audit_protects_nothing(audit_of_jobs: Make) -> None:
    assert killed_at("/shards/attribute/", 1, audit_of_jobs(), before=False)
    store = open_store(audit_of_jobs().store)
    assert collect(store, 24, abandoned=True).deleted == []
    for path in _files(store):
        os.utime(path, (0, 0))
    runs = {key.split("/")[1] for key in collect(store, 24, abandoned=True).deleted}
    assert {name.rpartition("-")[0] for name in runs} == {"weekly", "weekly-maps"}


def test_an_edited_plan_is_a_conflict(audit_of_jobs: Make) -> None:
    assert killed_at("/shards/attribute/", 1, audit_of_jobs(), before=False)
    (plan,) = _folder(audit_of_jobs()).glob("weekly-maps-*/run.json")
    content = json.loads(plan.read_bytes()) | {"fingerprint": "0" * 64}
    plan.write_bytes(canonical_json(content))
    with pytest.raises(ConflictError, match=r"^job 'maps': .*belongs to another manifest"):
        run(audit_of_jobs())


def _folder(manifest: AuditManifest) -> Path:
    return Path(manifest.store.url) / "runs"


def _files(store: ObjectStore) -> set[str]:
    root = Path(store.url(""))
    return {str(path) for path in root.rglob("*") if path.is_file()}
