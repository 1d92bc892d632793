"""An audit on the command line: plan, show, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradattr.storage.objects import open_store
from tests.made_up_audits import EFFECTS, MadeUpAudit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audits")
    for audit in (MadeUpAudit(), MadeUpAudit(name="quick", variants=("no_retrain",))):
        audit.write(open_store(str(folder)))
    return folder


def test_show_has_a_verdict_per_scheme_and_level(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "made-up", "--store", str(store))
    assert done.code == 0, done.err
    for word in (*EFFECTS, "satisfies", "violates", "noise floor", "n = 5 seeds", "Control", "k"):
        assert word in done.out
    (line,) = [line for line in done.out.split("Control")[0].splitlines() if " 10 %" in line][:1]
    assert line.index("violates") < line.index("satisfies")


def test_show_without_retraining_counts_images(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "quick", "--store", str(store))
    assert "n = 1000 test images" in done.out
    assert "noise floor" not in done.out


def test_show_as_json_holds_every_score(gradattr: Any, store: Path) -> None:
    shown = json.loads(gradattr("show", "made-up", "--store", str(store), "--json").out)
    assert len(shown["diffroar"]) == len(EFFECTS) * (8 + 7)
    assert {score["verdict"] for score in shown["diffroar"]} >= {"satisfies", "floor"}
    assert {trials["variant"] for trials in shown["trials"]} == {"retrain", "mask_only"}


def test_plot_draws_several_runs(gradattr: Any, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "curves.png"
    where = ("--store", str(store), "-o", str(target), "--pred-power")
    done = gradattr("plot", "made-up", "quick", *where)
    assert (done.code, done.out.strip()) == (0, f"Curves: {target}")
    assert target.read_bytes().startswith(b"\x89PNG")


def test_show_draws_the_curves_too(gradattr: Any, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "curves.png"
    done = gradattr("show", "made-up", "--store", str(store), "--png", str(target))
    assert f"Curves: {target}" in done.out
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_run_without_scores_is_refused(
    gradattr: Any, finished: tuple[Path, str], tmp_path: Path
) -> None:
    target = tmp_path / "curves.png"
    done = gradattr("plot", finished[1], "--store", str(finished[0]), "-o", str(target))
    assert done.code == 2
    assert "no DiffROAR scores to plot" in done.err
    assert not target.exists()


def test_init_prints_an_audit_that_plans(gradattr: Any, tmp_path: Path) -> None:
    done = gradattr("init", "--kind", "diffroar", "--name", "mine")
    assert done.code == 0
    path = tmp_path / "mine.yaml"
    path.write_text(done.out.replace("store: results ", f"store: {tmp_path}/results "))
    planned = json.loads(gradattr("plan", str(path), "--no-probe", "--json").out)
    assert planned["run_id"].startswith("mine-")
    assert [stage["name"] for stage in planned["stages"]] == ["train", "rank", "trial", "score"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--kind", "audit"], "expected attribute or diffroar"),
        (["--kind", "diffroar", "--data", "photos"], "--data is for --kind attribute"),
    ],
)
def test_init_refuses_what_it_has_no_template_for(
    gradattr: Any, arguments: list[str], expected: str
) -> None:
    done = gradattr("init", *arguments)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


@pytest.mark.parametrize("kind", ["people", "programs"])
def test_a_plan_says_how_many_trials(gradattr: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(
        "kind: diffroar\nname: t\ndata: digits\ntest: digits\n"
        f"models: {{a: {{arch: linear, train: {{epochs: 2}}}}}}\nstore: {tmp_path}/s\n"
    )
    done = gradattr("plan", str(path), "--no-probe", *(["--json"] if kind == "programs" else []))
    assert done.code == 0, done.err
    words = ("Trials", "mask_only", "masked copies") if kind == "people" else ('"rank_bytes"',)
    for word in words:
        assert word in done.out
