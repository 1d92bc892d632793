"""Whole runs in this process: what comes out, and that it does not depend on how."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradattr.attribution import integrated_gradients
from gradattr.errors import CheckError, ConflictError, Interrupted, ShardError, StoreError
from gradattr.models import build_model
from gradattr.plan import Task
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.runtime.executor import InlineExecutor, Stopped
from gradattr.runtime.progress import Event
from gradattr.storage.verify import verify_run
from gradattr.work.context import RunContext
from gradattr.work.outcome import Outcome

Make = Callable[..., Any]


def test_a_run_has_every_row_of_every_table(make_manifest: Make) -> None:
    manifest = make_manifest()
    result = run(manifest)
    opened = open_run(result.uri)
    assert (result.rows, result.bad_rows, result.already_complete) == (90, 0, False)
    assert opened.table("predictions")["row"].to_pylist() == list(range(90))
    for name in ("attributions", "maps"):
        keys = list(
            zip(*opened.table(name).select(["row", "method"]).to_pydict().values(), strict=True)
        )
        assert sorted(keys) == sorted((row, m) for row in range(90) for m in opened.methods)
    assert opened.table("errors").num_rows == 0
    report = verify_run(opened.store, opened.run_id)
    assert report.ok, report.problems


def test_maps_are_those_of_the_mathematics_alone(make_manifest: Make, weights: Path) -> None:
    """The stored map of one image equals integrated gradients in float64, without the engine."""
    manifest = make_manifest()
    opened = open_run(run(manifest).uri)
    from sklearn.datasets import load_digits

    image = torch.tensor(load_digits().images[3] / 16).reshape(1, 1, 8, 8)
    model = build_model(manifest.model, shape=(1, 8, 8), num_classes=10, seed=0).double()
    from safetensors.torch import load_file

    model.load_state_dict({k: v.double() for k, v in load_file(weights).items()})
    expected = integrated_gradients(model, image, steps=8).maps[0].numpy()
    (row,) = opened.sql("SELECT sample_id FROM predictions WHERE row = 3").to_pylist()
    found = opened.map(row["sample_id"], "integrated_gradients")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_running_again_does_nothing(make_manifest: Make) -> None:
    first = run(make_manifest())
    events: list[Event] = []
    again = run(make_manifest(), listener=events.append)
    assert again.already_complete
    assert (again.run_id, again.rows) == (first.run_id, first.rows)
    assert not [event for event in events if event.kind == "shard"]


@pytest.mark.parametrize(
    "changes",
    [
        {"shard_rows": 90},
        {"shard_rows": 7},
        {"engine": {"batch_size": 1}},
        {"engine": {"batch_size": 33}},
    ],
    ids=str,
)
def test_sharding_and_batch_size_change_nothing(
    make_manifest: Make, table_of: Make, tmp_path: Path, changes: dict[str, Any]
) -> None:
    opened = open_run(run(make_manifest()).uri)
    store = {"url": str(tmp_path / "other"), "maps": "float32"}
    other = open_run(run(make_manifest(store=store, **changes)).uri)
    for name in ("predictions", "attributions"):
        one, two = table_of(opened, name).to_pydict(), table_of(other, name).to_pydict()
        # A quotient of two small differences: where they vanish, rounding is all that is left.
        one.pop("completeness_gap_relative", None)
        for column, values in one.items():
            if values and isinstance(next((v for v in values if v is not None), None), float):
                both = zip(values, two[column], strict=True)
                assert all((a is None) == (b is None) for a, b in both), column
                a, b = ([v or 0.0 for v in each] for each in (values, two[column]))
                # Ranks: where two points of a path differ by rounding alone, they may swap.
                atol = 0.1 if column == "path_spearman" else 2e-5
                np.testing.assert_allclose(a, b, rtol=2e-3, atol=atol, err_msg=column)
            else:
                assert values == two[column], column
    for method in opened.methods:
        a, b = (_maps(each, method) for each in (opened, other))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5, err_msg=method)


def _maps(opened: Run, method: str) -> np.ndarray:
    table = opened.sql(f"SELECT row, map FROM maps WHERE method = '{method}' ORDER BY row")
    return np.array([np.ravel(row) for row in table["map"].to_pylist()])


def test_completeness_is_reported(make_manifest: Make) -> None:
    methods = [{"name": "integrated_gradients", "steps": 200}, "input_x_gradient", "saliency"]
    opened = open_run(run(make_manifest(methods=methods)).uri)
    gaps = opened.table("attributions").to_pandas().groupby("method").completeness_gap_relative
    assert gaps.median()["integrated_gradients"] < 0.01
    assert gaps.median()["input_x_gradient"] > 0.01
    assert gaps.count()["saliency"] == 0


class _Failing(InlineExecutor):
    """Carries tasks out, except that chosen attempts end otherwise."""

    def __init__(self, context: RunContext, verdict: Callable[[str, int], str]) -> None:
        super().__init__(context)
        self._verdict = verdict
        self._attempts: dict[str, int] = {}

    def run(self, tasks: Sequence[Task], stopped: Stopped) -> Iterator[Outcome]:
        for task in tasks:
            attempt = self._attempts[task.key] = self._attempts.get(task.key, 0) + 1
            verdict = self._verdict(task.key, attempt)
            if verdict == "ok":
                yield from super().run([task], stopped)
            else:
                yield Outcome(task.stage, task.key, verdict, error="as told")  # type: ignore[arg-type]


def _failing(verdict: Callable[[str, int], str]) -> Any:
    @contextmanager
    def open_executor(context: RunContext) -> Iterator[_Failing]:
        yield _Failing(context, verdict)

    return open_executor


def test_a_crashed_task_is_tried_again(make_manifest: Make) -> None:
    crash_once = _failing(
        lambda key, attempt: "crashed" if key == "00002" and attempt < 3 else "ok"
    )
    result = run(make_manifest(), open_executor=crash_once)
    assert result.rows == 90


def test_a_task_that_always_crashes_is_named_and_costs_no_other(make_manifest: Make) -> None:
    always = _failing(lambda key, attempt: "crashed" if key == "00001" else "ok")
    with pytest.raises(ShardError, match=r"attribute/00001: as told \(after 3 attempts\)"):
        run(make_manifest(), open_executor=always)
    events: list[Event] = []
    assert run(make_manifest(), listener=events.append).rows == 90
    assert [event.key for event in events if event.kind == "shard"] == ["00001"]


def test_a_fatal_outcome_stops_at_once_and_resumes(make_manifest: Make) -> None:
    attempted: list[str] = []

    def verdict(key: str, attempt: int) -> str:
        attempted.append(key)
        return "fatal" if key == "00001" else "ok"

    with pytest.raises(StoreError, match="goes on from there"):
        run(make_manifest(), open_executor=_failing(verdict))
    assert attempted == ["00000", "00001"]
    events: list[Event] = []
    run(make_manifest(), listener=events.append)
    assert "00000" not in [event.key for event in events if event.kind == "shard"]


def test_a_signal_keeps_finished_shards(make_manifest: Make) -> None:
    import os
    import signal

    def verdict(key: str, attempt: int) -> str:
        if key == "00002":
            os.kill(os.getpid(), signal.SIGTERM)
        return "ok"

    with pytest.raises(Interrupted, match="SIGTERM"):
        run(make_manifest(), open_executor=_failing(verdict))
    events: list[Event] = []
    assert run(make_manifest(), listener=events.append).rows == 90
    again = [event.key for event in events if event.kind == "shard"]
    assert "00000" not in again
    assert "00004" in again


def test_another_manifest_is_another_run(make_manifest: Make) -> None:
    first, second = run(make_manifest()), run(make_manifest(seed=1))
    assert first.run_id != second.run_id
    assert open_run(first.uri).rows == open_run(second.uri).rows == 90


def test_an_edited_run_json_is_a_conflict(make_manifest: Make, tmp_path: Path) -> None:
    manifest = make_manifest()
    with pytest.raises(ShardError):
        run(manifest, open_executor=_failing(lambda key, attempt: "failed"))
    (path,) = (tmp_path / "store" / "runs").glob("*/run.json")
    path.write_text(path.read_text().replace('"fingerprint":"', '"fingerprint":"0'))
    before = sorted(str(p) for p in (tmp_path / "store").rglob("*"))
    with pytest.raises(ConflictError):
        run(manifest)
    after = sorted(str(p) for p in (tmp_path / "store").rglob("*"))
    assert [p for p in after if "/data/" in p] == [p for p in before if "/data/" in p]


def test_bad_rows_over_the_threshold_are_not_committed(make_manifest: Make, tmp_path: Path) -> None:
    folder = _images(tmp_path / "images", bad=2)
    data = {"format": "folder", "url": str(folder)}
    preprocess = {"color": "gray", "resize": [8, 8]}
    model = {"num_classes": 10} | make_manifest().model.model_dump(exclude_none=True)
    changes: dict[str, Any] = {"data": data, "preprocess": preprocess, "model": model}
    with pytest.raises(CheckError, match="2 of 12 rows are bad \\(2 decode_error\\)"):
        run(make_manifest(**changes))
    assert not list((tmp_path / "store").glob("runs/*/_COMMIT.json"))
    result = run(make_manifest(**changes, errors={"max": 2.0}))
    opened = open_run(result.uri)
    assert result.bad_rows == 2
    assert opened.table("attributions").num_rows == 12 * len(opened.methods)
    statuses = opened.sql(
        "SELECT status, count(*) AS n FROM predictions GROUP BY status"
    ).to_pylist()
    assert {row["status"]: row["n"] for row in statuses} == {"ok": 10, "decode_error": 2}
    assert opened.sql("SELECT count(*) AS n FROM maps WHERE map IS NULL").to_pylist() == [
        {"n": 2 * len(opened.methods)}
    ]


def _images(folder: Path, bad: int) -> Path:
    from PIL import Image

    generator = np.random.default_rng(0)
    for i in range(12):
        path = folder / str(i % 2) / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < bad:
            path.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
        else:
            pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return folder


def test_a_model_is_trained_first_and_only_once(make_manifest: Make, tmp_path: Path) -> None:
    train = {"data": {"format": "digits", "limit": 200}, "epochs": 2, "lr": 0.01}
    changes: dict[str, Any] = {
        "model": {"arch": "mlp", "hidden": [16], "train": train},
        "methods": ["saliency", "linear"],
    }
    opened = open_run(run(make_manifest(**changes)).uri)
    history = opened.table("training").to_pandas()
    assert sorted(set(history.model)) == ["linear:linear", "model"]
    assert list(history[history.model == "model"].epoch) == [1, 2]
    records = sorted((tmp_path / "store").glob("models/*/record.json"))
    assert len(records) == 2
    before = [path.read_bytes() for path in records]
    # Another run with the same recipe finds the model in the store.
    run(make_manifest(**changes, name="second"))
    assert [path.read_bytes() for path in records] == before


def test_a_trained_model_that_is_lost_before_the_end_is_trained_again(
    make_manifest: Make, tmp_path: Path
) -> None:
    train = {"data": {"format": "digits", "limit": 100}, "epochs": 1, "lr": 0.01}
    model = {"arch": "mlp", "hidden": [8], "train": train}
    changes: dict[str, Any] = {"model": model, "methods": ["saliency"]}
    train_only = _failing(lambda key, attempt: "ok" if key == "model" else "failed")
    with pytest.raises(ShardError):
        run(make_manifest(**changes), open_executor=train_only)
    (weights,) = (tmp_path / "store").glob("models/*/weights-*.safetensors")
    weights.unlink()
    opened = open_run(run(make_manifest(**changes)).uri)
    report = verify_run(opened.store, opened.run_id)
    assert report.ok, report.problems
    assert opened.table("attributions").num_rows == 90


def test_a_trained_models_lost_record_says_what_to_delete(
    make_manifest: Make, tmp_path: Path
) -> None:
    train = {"data": {"format": "digits", "limit": 100}, "epochs": 1, "lr": 0.01}
    model = {"arch": "mlp", "hidden": [9], "train": train}
    changes: dict[str, Any] = {"model": model, "methods": ["saliency"]}
    train_only = _failing(lambda key, attempt: "ok" if key == "model" else "failed")
    with pytest.raises(ShardError):
        run(make_manifest(**changes), open_executor=train_only)
    (record,) = (tmp_path / "store").glob("models/*/record.json")
    record.unlink()
    (folder,) = (tmp_path / "store").glob("runs/*/shards/train")
    with pytest.raises(ShardError, match=f"delete {folder}"):
        run(make_manifest(**changes))
    shutil.rmtree(folder)
    opened = open_run(run(make_manifest(**changes)).uri)
    report = verify_run(opened.store, opened.run_id)
    assert report.ok, report.problems


def test_kind_train_makes_a_model_for_other_runs(make_manifest: Make) -> None:
    train = {"data": {"format": "digits", "limit": 200}, "epochs": 3, "lr": 0.01}
    manifest = make_manifest()
    base = {"store": manifest.store.model_dump(), "runtime": {"address": "inline"}}
    from gradattr.manifest.kinds import KINDS

    trained = run(
        KINDS["train"].model_validate(
            {
                "kind": "train",
                "name": "teacher",
                "model": {"arch": "cnn", "width": 4, "train": train},
                **base,
            }
        )
    )
    model = {"arch": "cnn", "width": 4, "weights": f"run:{trained.run_id}"}
    result = run(make_manifest(model=model, methods=["saliency"]))
    assert open_run(result.uri).rows == 90
