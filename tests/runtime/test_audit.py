"""Whole audits in this process: every job a run of its own, and one run that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image

from gradattr.canonical import digest_bytes
from gradattr.errors import CheckError, DataError, Interrupted, ModelError, ShardError, UsageError
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.operation import Runtime
from gradattr.plan import Task
from gradattr.report.results import Run, open_run
from gradattr.runtime.audit import widest
from gradattr.runtime.driver import run
from gradattr.runtime.executor import InlineExecutor, Stopped
from gradattr.runtime.progress import Event
from gradattr.storage.objects import open_store
from gradattr.storage.runs import list_runs
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome

Make = Callable[..., AuditManifest]


def test_each_job_is_a_run_and_the_audit_names_them(audit_of_jobs: Make) -> None:
    manifest = audit_of_jobs()
    result = run(manifest)
    assert (result.rows, result.unit, result.bad_rows) == (2, "jobs", 0)
    opened = open_run(result.uri)
    assert opened.jobs == ["maps", "trust"]
    rows = opened.table("jobs").to_pylist()
    assert [(row["job"], row["kind"]) for row in rows] == [
        ("maps", "attribute"),
        ("trust", "diffroar"),
    ]
    for row in rows:
        alone = open_run(f"{manifest.store.url}/{row['uri']}")
        assert alone.run_id == row["run_id"]
        assert alone.run_id.startswith(f"weekly-{row['job']}-")
        assert (row["fingerprint"], row["bytes"]) == (alone.commit.fingerprint, alone.commit.bytes)
        committed = Path(alone.uri, "_COMMIT.json").read_bytes()
        assert row["commit_sha256"] == digest_bytes(committed)
        assert row["tables"] == alone.tables
        assert opened.job(row["job"]).run_id == alone.run_id
    assert rows[0]["rows"] == 40
    page = opened._repr_html_()
    assert "2 jobs" in page
    assert f"<td>maps</td><td>attribute</td><td>{rows[0]['run_id']}</td><td>accuracy " in page


def test_a_job_is_the_run_of_the_same_manifest_by_hand(audit_of_jobs: Make) -> None:
    manifest = audit_of_jobs()
    first = run(manifest.jobs["maps"])
    told: list[Event] = []
    opened = open_run(run(manifest, listener=told.append).uri)
    assert opened.job("maps").run_id == first.run_id
    assert f"job maps: {first.run_id} is already complete" in [event.message for event in told]
    assert "maps attribute" not in {event.stage for event in told}
    assert {"trust rank", "trust evaluate"} <= {event.stage for event in told}


def test_running_again_does_nothing(audit_of_jobs: Make) -> None:
    first = run(audit_of_jobs())
    told: list[Event] = []
    again = run(audit_of_jobs(), listener=told.append)
    assert again.already_complete
    assert (again.run_id, again.rows, again.unit) == (first.run_id, 2, "jobs")
    assert {event.kind for event in told} == {"plan", "complete"}


def test_another_job_leaves_the_others_as_they_are(audit_of_jobs: Make) -> None:
    first = open_run(run(audit_of_jobs()).uri)
    jobs = {name: job.model_dump(mode="json") for name, job in audit_of_jobs().jobs.items()}
    jobs["trust"] |= {"levels": [0.5, 1.0]}
    second = open_run(run(audit_of_jobs(jobs=jobs)).uri)
    assert second.run_id != first.run_id
    assert second.job("maps").run_id == first.job("maps").run_id
    assert second.job("trust").run_id != first.job("trust").run_id


def test_where_jobs_run_and_what_is_checked_is_no_part_of_an_audit(audit_of_jobs: Make) -> None:
    check = {"job": "maps", "check": "predictions", "at_least": 0.5}
    first = run(audit_of_jobs())
    again = run(audit_of_jobs(runtime={"address": "inline", "retries": 0}, checks=[check]))
    assert again.already_complete
    assert again.run_id == first.run_id


def test_every_misfit_is_named_before_anything_is_written(
    audit_of_jobs: Make, tmp_path: Path
) -> None:
    jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
    jobs["maps"]["data"] = {"format": "npz", "file": str(tmp_path / "none.npz")}
    with pytest.raises(DataError, match=r"^job 'maps': "):
        run(audit_of_jobs(jobs=jobs))
    jobs["trust"]["models"]["standard"]["weights"] = str(tmp_path / "none.safetensors")
    with pytest.raises(UsageError) as caught:
        run(audit_of_jobs(jobs=jobs))
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 2 jobs cannot work:"
    assert lines[1].startswith("  job 'maps': ")
    assert lines[2].startswith("  job 'trust': ")
    # Known only when the models are tried.
    jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    for part in (jobs["maps"]["model"], jobs["trust"]["models"]["standard"]):
        part["weights"] = str(tmp_path / "bad.safetensors")
    with pytest.raises(UsageError, match=r"(?s)job 'maps'.*job 'trust'"):
        run(audit_of_jobs(jobs=jobs))
    assert not (tmp_path / "store").exists()


def test_a_job_that_fails_ends_the_audit_and_the_others_are_kept(
    audit_of_jobs: Make, tmp_path: Path
) -> None:
    broken = {"on": True}

    class Failing(InlineExecutor):
        def run(self, tasks: Any, stopped: Stopped) -> Iterator[Outcome]:
            for outcome in super().run(tasks, stopped):
                if outcome.stage == "rank" and broken["on"]:
                    yield Outcome(outcome.stage, outcome.key, "failed", error="made up")
                else:
                    yield outcome

    @contextmanager
    def opened(context: RunContext) -> Iterator[Failing]:
        yield Failing(context)

    with pytest.raises(ShardError) as caught:
        run(audit_of_jobs(), open_executor=opened)
    text = str(caught.value)
    assert text.startswith("job 'trust': 2 of 2 shards of stage rank failed:")
    assert text.endswith("Complete, and kept: maps")
    states = {one.name: one.committed for one in list_runs(open_store(audit_of_jobs().store))}
    assert states == {"weekly": False, "weekly-maps": True, "weekly-trust": False}
    broken["on"] = False
    told: list[Event] = []
    run(audit_of_jobs(), listener=told.append, open_executor=opened)
    assert not [event for event in told if event.stage.startswith("maps")]


def test_a_job_with_too_many_bad_rows_says_where_to_allow_them(
    audit_of_jobs: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "photos" / "seven"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"no image")
    Image.new("L", (8, 8)).save(folder / "9.png")
    jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
    jobs["maps"] |= {
        "data": {"format": "folder", "url": str(folder.parent)},
        "model": jobs["maps"]["model"] | {"num_classes": 10},
        "preprocess": {"color": "gray"},
    }
    with pytest.raises(CheckError) as caught:
        run(audit_of_jobs(jobs=jobs))
    text = str(caught.value)
    assert text.startswith("job 'maps': 3 of 4 rows are bad")
    assert "--set jobs.maps.errors.max=3" in text
    assert text.endswith("Not begun: trust")
    jobs["maps"]["errors"] = {"max": 3}
    result = run(audit_of_jobs(jobs=jobs))
    assert result.bad_rows == 3
    assert open_run(result.uri).table("jobs")["bad_rows"].to_pylist() == [3, 0]


def test_a_signal_between_jobs_keeps_what_is_done(audit_of_jobs: Make) -> None:
    def stop(event: Event) -> None:
        if event.message.startswith("job maps: committed"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="the same command goes on from there"):
        run(audit_of_jobs(), listener=stop)
    told: list[Event] = []
    run(audit_of_jobs(), listener=told.append)
    assert not [event for event in told if event.stage.startswith("maps")]


def test_models_that_no_job_can_use_are_refused(audit_of_jobs: Make) -> None:
    jobs = audit_of_jobs().model_dump(mode="json")["jobs"]
    jobs["maps"]["model"]["width"] = 5
    with pytest.raises(ModelError, match=r"^job 'maps': "):
        run(audit_of_jobs(jobs=jobs))


def test_the_widest_runtime_is_the_one_a_local_ray_starts_with() -> None:
    few, many = Runtime(workers=2), Runtime(workers=2, cpus_per_task=4)
    assert widest([few, many]) is many
    anything = Runtime()
    assert widest([many, anything, few]) is anything


def test_one_ray_for_all_jobs(
    audit_of_jobs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    init = ray.init

    def noted(**options: Any) -> Any:
        started.append(options)
        return init(**options)

    monkeypatch.setattr(ray, "init", noted)
    told: list[str] = []
    manifest = audit_of_jobs(runtime={"address": "local", "workers": 2})
    opened = open_run(run(manifest, listener=lambda event: told.append(event.message)).uri)
    assert len(started) == 1
    assert [text for text in told if "running on" in text] == [
        "maps: running on a local Ray, 2 CPUs",
        "trust: running on a local Ray, 2 CPUs",
    ]
    assert not ray.is_initialized()
    alone = open_run(run(audit_of_jobs(store={"url": str(tmp_path / "inline")})).uri)
    for name in opened.tables:
        if name != "jobs":
            assert _sorted(opened, name).equals(_sorted(alone, name)), name


def test_every_job_that_no_node_can_run_is_named_before_the_first(
    audit_of_jobs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def made_up(runtime: Runtime) -> Iterator[str]:
        yield "a cluster"

    def check(runtime: Runtime) -> None:
        if runtime.gpus_per_task:
            raise UsageError("no node has a GPU")

    monkeypatch.setattr("gradattr.runtime.ray_cluster.connect", made_up)
    monkeypatch.setattr("gradattr.runtime.ray_cluster.check_resources", check)
    jobs = audit_of_jobs(runtime={"address": "auto"}).model_dump(mode="json")["jobs"]
    jobs["trust"]["runtime"] = {"gpus_per_task": 1.0}
    manifest = audit_of_jobs(runtime={"address": "auto"}, jobs=jobs)
    with pytest.raises(UsageError, match=r"^job 'trust': no node has a GPU$"):
        run(manifest)
    assert {one.name for one in list_runs(open_store(manifest.store))} == {"weekly"}


def test_any_executor_serves_every_job(audit_of_jobs: Make) -> None:
    seen: list[tuple[str, str]] = []

    class Noting(InlineExecutor):
        def run(self, tasks: Any, stopped: Stopped) -> Iterator[Outcome]:
            seen.extend((self._context.run_id.rpartition("-")[0], _stage(task)) for task in tasks)
            return super().run(tasks, stopped)

    @contextmanager
    def opened(context: RunContext) -> Iterator[Noting]:
        yield Noting(context)

    run(audit_of_jobs(), open_executor=opened)
    assert list(dict.fromkeys(seen)) == [
        ("weekly-maps", "attribute"),
        ("weekly-trust", "rank"),
        ("weekly-trust", "evaluate"),
        ("weekly-trust", "score"),
        ("weekly", "collect"),
    ]


def _stage(task: Task) -> str:
    return task.stage


def _sorted(opened: Run, name: str) -> Any:
    table = opened.table(name)
    wanted = ("row", "method", "scheme", "variant", "level", "arm", "trial")
    keys = [column for column in wanted if column in table.column_names]
    return table.sort_by([(key, "ascending") for key in keys]) if keys else table
