"""An audit on the command line: plan, show, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradattr.cli import output, scores
from gradattr.cli.stored import show_run
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


def test_the_control_shows_what_the_masks_give_away(gradattr: Any, store: Path) -> None:
    """Equal accuracies of both arms are no difference, and may still be high."""
    done = gradattr("show", "made-up", "--store", str(store))
    shown = json.loads(gradattr("show", "made-up", "--store", str(store), "--json").out)
    control = done.out.split("Control: ")[1]
    found = {
        power["arm"]: f"{power['mean']:.4f}"
        for power in shown["pred_power"]
        if (power["scheme"], power["variant"], power["level"]) == ("linear", "mask_only", 0.1)
    }
    (line,) = [line for line in control.splitlines() if line.startswith(" 10 %")][:1]
    assert f"{found['top']} - {found['bottom']} = " in line
    assert "satisfies" not in control.split("Mean and 95 % interval")[0]


def test_chance_and_the_noise_floor_are_explained(gradattr: Any, store: Path) -> None:
    """4 schemes at 7 levels below 1."""
    done = gradattr("show", "made-up", "--store", str(store))
    assert "here 1.4 of 28" in done.out
    assert "Noise floor: what chance makes" in done.out


@pytest.mark.parametrize("width", [80, 120])
def test_a_score_stands_on_one_line(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, store: Path, width: int
) -> None:
    wide = Console(width=width, highlight=False)
    monkeypatch.setattr(output, "console", lambda: wide)
    monkeypatch.setattr(scores, "console", lambda: wide)
    show_run("made-up", str(store), None, False, None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.count("[") == line.count("]") for line in lines)


def test_a_decided_interval_does_not_seem_to_touch_zero() -> None:
    row = {"variant": "retrain", "diffroar": 0.0028, "low": 0.0003, "high": 0.0053}
    assert scores._cell({**row, "verdict": "satisfies"}, []) == (
        "+0.0028 [+0.0003, +0.005] satisfies"
    )


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
        (["--kind", "train"], "expected attribute, diffroar, tfa"),
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
