"""``gradattr compare``: what a person reads, and what a program does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import MANIFEST, Command


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two runs of one manifest, in stores of their own: URLs."""
    from gradattr.manifest.loading import parse_manifest
    from gradattr.runtime.driver import run

    store = str(tmp_path_factory.mktemp("compared"))
    text = MANIFEST.replace("STORE", store)
    a = run(parse_manifest(text, file="a.yaml"))
    other = text.replace("epochs: 2", "epochs: 30").replace("steps: 5", "steps: 6")
    return a.uri, run(parse_manifest(other, file="b.yaml")).uri


def test_two_runs_side_by_side(gradattr: Command, pair: tuple[str, str]) -> None:
    a, b = pair
    done = gradattr("compare", a, b)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert f"A: {Path(a).name}" in text
    assert "THE MODELS DIFFER. The data are the same. 2 keys of the manifests differ:" in text
    assert "model.train.epochs 2 30" in text
    assert "methods[integrated_gradients].steps 5 6" in text
    for title in ("What the model says", "Numbers of the maps", "Maps of the same image"):
        assert title in done.out
    assert "images are taken for another class" in text
    assert "Differences are B - A with their 95 % interval" in text
    found = json.loads(gradattr("compare", a, b, "--json").out)
    assert (found["same_data"], found["same_models"]) == (True, False)
    assert found["kind"] == "attribute"
    keys = {one["key"]: (one["a"], one["b"]) for one in found["asked_differently"]}
    assert keys["model.train.epochs"] == (2, 30)
    rows: list[dict[str, Any]] = found["sections"][0]["rows"]
    assert {row["measure"] for row in rows} == {"accuracy", "confidence", "loss"}
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows)


def test_a_figure(gradattr: Command, pair: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    done = gradattr("compare", *pair, "--png", str(path))
    assert done.code == 0
    assert f"Figure: {path}" in done.out
    assert path.read_bytes().startswith(b"\x89PNG")
    assert gradattr("compare", *pair, "--png", str(tmp_path / "x.txt")).code == 2


def test_by_id_and_with_itself(gradattr: Command, pair: tuple[str, str]) -> None:
    store, run_id = str(Path(pair[0]).parents[1]), Path(pair[0]).name
    done = gradattr("compare", run_id, pair[0], "--store", store)
    assert done.code == 0
    assert "were asked the same." in done.out
    assert "[0, 0]" in done.out
    assert "-0" not in done.out.replace(run_id, "")
    done = gradattr("compare", run_id, "nothing", "--store", store)
    assert done.code == 2
    assert "no run 'nothing'" in done.err


def test_runs_of_two_kinds(gradattr: Command, pair: tuple[str, str], tmp_path: Path) -> None:
    from gradattr.storage.objects import open_store
    from tests.made_up_audits import MadeUpAudit

    store = open_store(str(tmp_path))
    audit = store.url(f"runs/{MadeUpAudit().write(store).run_id}")
    done = gradattr("compare", pair[0], audit)
    assert done.code == 2
    assert "of kind 'attribute'" in done.err
    assert "of kind 'diffroar'" in done.err
    done = gradattr("compare", audit, audit)
    assert done.code == 0
    assert "DiffROAR" in done.out
    assert "paired by seed (Student's t)" in done.out
