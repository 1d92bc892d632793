"""A user's way: init, validate, plan, run, status, ls, show, query, verify, gc."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.loading import parse_manifest


def test_init_prints_a_manifest_that_is_valid(gradattr: Any, tmp_path: Path) -> None:
    done = gradattr("init", "--name", "mine")
    assert done.code == 0
    manifest = parse_manifest(done.out, file="init.yaml")
    assert (manifest.kind, manifest.name) == ("attribute", "mine")
    strange = "a: 'strange' #folder"
    done = gradattr("init", "--data", strange)
    assert parse_manifest(done.out, file="init.yaml").data.url == strange


def test_init_refuses_what_no_manifest_takes(gradattr: Any) -> None:
    done = gradattr("init", "--name", "Bad Name")
    assert (done.code, done.out) == (2, "")
    assert "name" in done.err


def test_a_manifest_that_is_not_there_is_no_run_id(gradattr: Any, tmp_path: Path) -> None:
    done = gradattr("status", str(tmp_path / "none.yaml"))
    assert (done.code, "there is no such file" in done.err) == (2, True)


def test_from_plan_to_run_to_plan(gradattr: Any, manifest: Path, tmp_path: Path) -> None:
    planned = json.loads(gradattr("plan", str(manifest), "--no-probe", "--json").out)
    assert planned["rows"] == 60
    assert [(s["name"], s["shards"], s["done"]) for s in planned["stages"]] == [
        ("train", 1, 0),
        ("attribute", 3, 0),
    ]
    # saliency 1 + integrated gradients 5 per row; random none.
    assert planned["stages"][1]["evaluations"] == 60 * 6
    assert planned["map_bytes"]["float32"] == 60 * 3 * 64 * 4
    assert planned["audit"] is None
    assert not (tmp_path / "store").exists()
    done = gradattr("run", str(manifest))
    assert done.code == 0, done.err
    assert f"Committed {planned['run_id']}: 60 rows." in done.out
    again = gradattr("run", str(manifest))
    assert "is already complete" in again.out
    planned = json.loads(gradattr("plan", str(manifest), "--json").out)
    assert planned["committed"]
    assert [s["done"] for s in planned["stages"]] == [1, 3]


def test_a_plan_for_people(gradattr: Any, manifest: Path) -> None:
    done = gradattr("plan", str(manifest))
    assert done.code == 0
    for word in (
        "train",
        "attribute",
        "float16",
        "<- this manifest",
        "estimated from a few batches",
    ):
        assert word in done.out


def test_validate_says_what_it_found(gradattr: Any, manifest: Path) -> None:
    done = gradattr("validate", str(manifest))
    assert (done.code, "valid. Run cli-" in done.out) == (0, True)
    assert "input 1x8x8, 10 classes" in done.out


def test_a_run_can_be_named_in_every_way(
    gradattr: Any, finished: tuple[Path, str], tmp_path: Path
) -> None:
    store, run_id = finished
    for name in (run_id, "cli", run_id[:6]):
        assert gradattr("status", name, "--store", str(store)).code == 0
    assert gradattr("status", f"{store}/runs/{run_id}").code == 0
    done = gradattr("status", "nothing", "--store", str(store))
    assert (done.code, run_id in done.err) == (2, True)


def test_status_ls_and_verify(gradattr: Any, finished: tuple[Path, str]) -> None:
    store, run_id = finished
    status = json.loads(gradattr("status", run_id, "--store", str(store), "--json").out)
    assert status["committed"]
    assert [s["rows_done"] for s in status["stages"]] == [100, 60]
    (listed,) = json.loads(gradattr("ls", "--store", str(store), "--json").out)
    assert (listed["run_id"], listed["rows"]) == (run_id, 60)
    assert "every byte is as committed" in gradattr("verify", run_id, "--store", str(store)).out


def test_show_has_a_line_per_method_and_a_picture(
    gradattr: Any, finished: tuple[Path, str], tmp_path: Path
) -> None:
    store, run_id = finished
    png = tmp_path / "maps.png"
    done = gradattr("show", run_id, "--store", str(store), "--png", str(png))
    assert done.code == 0
    for word in ("saliency", "integrated_gradients", "random", "Accuracy", "Training"):
        assert word in done.out
    assert png.read_bytes().startswith(b"\x89PNG")


def test_query(gradattr: Any, finished: tuple[Path, str]) -> None:
    store, run_id = finished
    where = ("--store", str(store))
    sql = "SELECT method, count(*) AS n FROM attributions GROUP BY method ORDER BY method"
    done = gradattr("query", run_id, sql, *where, "--json")
    assert json.loads(done.out) == [
        {"method": "integrated_gradients", "n": 60},
        {"method": "random", "n": 60},
        {"method": "saliency", "n": 60},
    ]
    done = gradattr("query", run_id, "SELECT row FROM predictions", *where, "--limit", "7")
    assert "the first 7 rows" in done.err


@pytest.mark.parametrize("sql", ["SELECT nothing FROM maps", "SELECT count(*) FROM maps"])
def test_a_query_leaves_nothing_but_its_answer(finished: tuple[Path, str], sql: str) -> None:
    """DuckDB prints pages of leaks if a connection lives until the interpreter ends."""
    store, run_id = finished
    command = [sys.executable, "-m", "gradattr.cli.main", "query", run_id, sql]
    done = subprocess.run([*command, "--store", str(store)], capture_output=True, text=True)
    assert "leaked" not in done.stderr
    assert done.returncode == (2 if "nothing" in sql else 0)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY predictions TO 'out.csv'",
        "ATTACH 'x.db'",
        "SET threads = 1",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_text('/etc/passwd')",
        "INSTALL httpfs",
        "SELEC 1",
        "SELECT nothing FROM predictions",
    ],
)
def test_a_query_that_is_no_question_is_refused(
    gradattr: Any, finished: tuple[Path, str], sql: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gradattr("query", finished[1], sql, "--store", str(finished[0]))
    assert done.code == 2
    assert done.err.startswith("gradattr: ")
    assert not list(tmp_path.iterdir())


def test_an_endless_query_is_interrupted(gradattr: Any, finished: tuple[Path, str]) -> None:
    sql = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range"
    done = gradattr("query", finished[1], sql, "--store", str(finished[0]), "--timeout", "0.5")
    assert (done.code, "interrupted" in done.err) == (2, True)


def test_a_query_cannot_take_all_memory(gradattr: Any, finished: tuple[Path, str]) -> None:
    sql = "SELECT list_aggregate(range(1000000000), 'sum')"
    done = gradattr("query", finished[1], sql, "--store", str(finished[0]))
    assert (done.code, "Memory" in done.err) == (2, True)


def test_damage_is_found_and_named(gradattr: Any, manifest: Path, tmp_path: Path) -> None:
    gradattr("run", str(manifest))
    (victim, *_) = sorted((tmp_path / "store").glob("runs/*/data/maps/*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    done = gradattr("verify", str(manifest))
    assert (done.code, victim.name in done.err) == (1, True)


def test_gc_lists_first_and_deletes_on_demand(
    gradattr: Any, manifest: Path, tmp_path: Path
) -> None:
    gradattr("run", str(manifest))
    (run,) = (tmp_path / "store/runs").iterdir()
    stray = run / "data/maps/part-00000-0123456789abcdef-00.parquet"
    stray.write_bytes(b"left by an attempt that died")
    where = ("--store", str(tmp_path / "store"), "--grace-hours", "0")
    listed = gradattr("gc", *where)
    assert stray.name in listed.out
    assert stray.exists()
    assert gradattr("gc", *where, "--delete").code == 0
    assert not stray.exists()
    assert gradattr("verify", str(manifest)).code == 0


def test_methods_schema_doctor(gradattr: Any, tmp_path: Path) -> None:
    names = {entry["name"] for entry in json.loads(gradattr("methods", "--json").out)}
    assert {"saliency", "integrated_gradients", "gradient_shap", "linear"} <= names
    assert "integrated_gradients" in gradattr("methods").out

    assert "$defs" in json.loads(gradattr("schema").out)
    done = gradattr("doctor", "--store", str(tmp_path))
    assert done.code == 0, done.out
    assert "conditional_put True" in done.out


def test_one_method_is_described(gradattr: Any) -> None:
    told = gradattr("methods", "grad_cam").out
    for part in ("Selvaraju", "layer", "cost", "needs"):
        assert part in told, part
    (entry,) = json.loads(gradattr("methods", "grad_cam", "--json").out)
    assert entry["name"] == "grad_cam"
    wrong = gradattr("methods", "gradcam")
    assert wrong.code == 2
    assert "method 'gradcam' does not exist; did you mean 'grad_cam'" in wrong.err
