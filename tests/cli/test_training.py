"""A run of kind tfa on the command line: init, show, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradattr.cli import output, training
from gradattr.cli.stored import show_run
from gradattr.manifest.loading import parse_manifest
from gradattr.storage.objects import open_store
from tests.made_up_audits import MadeUpAudit
from tests.made_up_tfa import BLOCKS, MadeUpTfa


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfa")
    opened = open_store(str(folder))
    MadeUpTfa(name="why", count=3).write(opened)
    MadeUpTfa(name="marked", count=1, insertion=False, index=False, **BLOCKS).write(opened)
    MadeUpAudit(name="audit", seeds=2).write(opened)
    return folder


def test_show_has_pairs_maps_tests_and_recall(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "why", "--store", str(store))
    assert done.code == 0, done.err
    for word in (
        "3 queries, 36 pairs, 108 maps",
        "grad_cos: most helpful and most harmful training image of each query",
        "random: most helpful",
        "Spearman",
        "Insertion, helpful images, 1 step of SGD",
        "n = 9 pairs",
        "Insertion, harmful images",
        "among 50 candidates",
        "95.00%",
    ):
        assert word in done.out
    assert "share in the region" not in done.out
    (line,) = [line for line in done.out.split("random: ")[0].splitlines() if " 00000035 " in line]
    assert "+0.9" in line
    assert "-0.9" in line


def test_show_compares_a_marked_region_with_chance(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "marked", "--store", str(store))
    (line, *_) = [x for x in done.out.splitlines() if x.startswith(" grad_cos   helpful   tfa")]
    assert line.split()[-4:] == ["3", "75.00%", "50.00%", "1.50"]
    assert "Insertion" not in done.out
    assert "Index" not in done.out


def test_many_queries_are_counted(gradattr: Any, store: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(training, "SHOWN", 2)
    done = gradattr("show", "why", "--store", str(store))
    assert "The first 2 of 3 queries; the table 'tfa_pairs' has all." in done.out


def test_show_as_json(gradattr: Any, store: Path) -> None:
    shown = json.loads(gradattr("show", "why", "--store", str(store), "--json").out)
    assert shown["tfa"]["queries"] == 3
    assert len(shown["tfa"]["strongest"]) == 6


def test_intervals_stand_on_one_line(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    narrow = Console(width=80, highlight=False)
    monkeypatch.setattr(output, "console", lambda: narrow)
    monkeypatch.setattr(training, "console", lambda: narrow)
    show_run("why", str(store), None, False, None)
    lines = capsys.readouterr().out.split("Insertion")[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.count("[") == line.count("]") for line in lines)


def test_plot_draws_every_query_into_a_folder(gradattr: Any, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "figures"
    done = gradattr("plot", "why", "--store", str(store), "-o", str(target), "--top", "1")
    assert (done.code, done.out.strip()) == (0, f"Figures: {target} (3 queries, insertion.png)")
    names = ["insertion.png", "query-0000.png", "query-0001.png", "query-0002.png"]
    assert sorted(path.name for path in target.iterdir()) == names


def test_plot_draws_one_query_into_a_file(gradattr: Any, store: Path, tmp_path: Path) -> None:
    where = ("--store", str(store), "--method", "random", "--map", "deep", "--top", "2")
    target = tmp_path / "one.svg"
    done = gradattr("plot", "why", "--query", "2", "-o", str(target), *where)
    assert (done.code, done.out.strip()) == (0, f"Figure: {target}")
    assert "<svg" in target.read_text()
    done = gradattr("plot", "why", "--query", "2", "-o", str(tmp_path / "d"), *where)
    assert done.out.strip() == f"Figures: {tmp_path / 'd'} (1 query)"
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["query-0002.png"]


def test_plot_and_show_draw_single_files(gradattr: Any, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "insertion.pdf"
    done = gradattr("plot", "why", "--store", str(store), "-o", str(target))
    assert done.out.strip() == f"Insertion test: {target}"
    assert target.read_bytes().startswith(b"%PDF")
    picture = tmp_path / "q.png"
    done = gradattr("show", "why", "--store", str(store), "--png", str(picture))
    assert f"Query 0: {picture}" in done.out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["why", "-o", "a.png"], "a figure shows one query; choose it by --query"),
        (["why", "--query", "9", "-o", "a.png"], "has no query 9; it has 3, from 0"),
        (
            ["why", "--method", "tracin"],
            "there is no score 'tracin' in this run; there is grad_cos",
        ),
        (["why", "--map", "x"], "there is no map 'x' in this run; there is tfa, plain, deep"),
        (["why", "audit"], "is of kind 'tfa', which is drawn alone"),
        (["why", "--pred-power"], "--pred-power is for audits"),
        (["audit", "--query", "1", "--top", "2"], "--query, --top: for runs of kind 'tfa'"),
        (["marked", "-o", "insertion.png"], "has no insertion test"),
    ],
)
def test_plot_refuses(
    gradattr: Any,
    store: Path,
    tmp_path: Path,
    monkeypatch: Any,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gradattr("plot", *arguments, "--store", str(store))
    assert (done.code, expected in done.err) == (2, True), done.err
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_init_prints_a_manifest_that_plans(gradattr: Any, tmp_path: Path) -> None:
    done = gradattr("init", "--kind", "tfa", "--name", "mine")
    assert done.code == 0
    manifest = parse_manifest(done.out, file="init.yaml")
    assert (manifest.kind, manifest.name) == ("tfa", "mine")
    path = tmp_path / "mine.yaml"
    path.write_text(done.out.replace("store: results ", f"store: {tmp_path}/results "))
    planned = json.loads(gradattr("plan", str(path), "--no-probe", "--json").out)
    names = [stage["name"] for stage in planned["stages"]]
    assert names == ["train", "predict", "select", "curvature", "tda", "pair", "map", "summary"]
