"""A run of kind patching on the command line: the example with a folder of one's own, for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.loading import parse_manifest
from gradattr.report.results import open_run
from tests.small_language import prompt, save_model, train_adder

EXAMPLE = Path(__file__).parents[2] / "manifests/patching_folder.yaml"
INLINE = ("--set", "runtime.address=inline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example needs, where it looks for it."""
    found = tmp_path_factory.mktemp("patching")
    save_model(found / "models/my-model", train_adder())
    (found / "data").mkdir()
    lines = [prompt(i % 2, i % 5, i % 3) for i in range(6)]
    (found / "data/prompts.txt").write_text("\n".join([*lines, "", "1 plus 1 is"]) + "\n")
    (found / "m.yaml").write_text(EXAMPLE.read_text())
    return found


def test_a_users_way(gradattr: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = gradattr("validate", "m.yaml", *INLINE)
    assert done.code == 0, done.err
    assert "8 rows" in done.out
    assert "GPT2LMHeadModel" in done.out
    assert "1 are bad: 1 empty" in done.out
    plan = json.loads(gradattr("plan", "m.yaml", *INLINE, "--json").out)
    patch, last = plan["stages"]
    assert (patch["name"], patch["shards"], last["name"]) == ("patch", 1, "faithfulness")
    # Of a good prompt: its answer; of each baseline its score, two runs and a place at a time for
    # the exact effects, two runs and a backward pass for the estimates; UNI's steps.
    places = sum(3 * n for n in (4, 7, 4, 7, 4, 7, 4))
    assert patch["evaluations"] == 7 * (1 + 4 * (1 + 2 + 2 + 3) + 4 + 30) + 4 * places
    assert patch["seconds"] > 0

    done = gradattr("run", "m.yaml", *INLINE)
    assert done.code == 1
    assert "1 of 8 rows are bad (1 empty)" in done.err
    allowed = (*INLINE, "--set", "errors.max=0.2")
    done = gradattr("run", "m.yaml", *allowed)
    assert done.code == 0, done.err
    done = gradattr("show", "patching-folder")
    for word in ("8 rows", "at the baseline", "Faithfulness", "l2 distance", "embedding"):
        assert word in done.out, word
    rows = json.loads(gradattr("show", "patching-folder", "--json").out)["patching"]
    assert [row["baseline"] for row in rows["baselines"]] == ["uni", "zero", "random", "mean"]
    assert len(rows["faithfulness"]) == 12
    done = gradattr("show", "patching-folder", "--png", "x.png")
    assert done.code == 2
    assert "has no pictures" in done.err
    done = gradattr("plot", "patching-folder")
    assert done.code == 2
    sql = "SELECT baseline, mean FROM faithfulness WHERE measure = 'l2' ORDER BY mean"
    assert "uni" in gradattr("query", "patching-folder", sql).out
    assert gradattr("verify", "patching-folder").code == 0
    (run_folder,) = (folder / "results/runs").iterdir()
    shown = open_run(str(run_folder))._repr_html_()
    assert "attribution_patching" in shown
    assert "relative_l2" in shown


def test_init_prints_a_manifest(gradattr: Any) -> None:
    done = gradattr("init", "--kind", "patching", "--name", "where")
    manifest = parse_manifest(done.out, file="init.yaml")
    assert manifest.kind == "patching"
    assert manifest.name == "where"
    assert manifest.data.answer == "answer"


def test_prompts_are_no_images(gradattr: Any, folder: Path, tmp_path: Path) -> None:
    done = gradattr("ingest", str(folder / "m.yaml"), str(tmp_path / "out"))
    assert done.code == 2
    assert "has prompts, not images" in done.err
