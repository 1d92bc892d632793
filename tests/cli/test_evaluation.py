"""An evaluation on the command line: show, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradattr.cli import evaluation, output
from gradattr.cli.evaluation import missing_notes
from gradattr.cli.stored import show_run
from gradattr.storage.objects import open_store
from tests.made_up_audits import MadeUpAudit
from tests.made_up_evaluations import METHODS, METRICS, MadeUpEvaluation

FEW = ("deletion_auc", "complexity_sparseness")
#: So many that a table per metric would fill screens.
MANY = {f"method_{i}": i / 13 for i in range(12)} | {"random": 0.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    for made in (
        MadeUpEvaluation(),
        MadeUpEvaluation(name="few", metrics=FEW, curves=(), agreement=False),
        MadeUpEvaluation(name="many", methods=MANY, images=12, curves=(), agreement=False),
    ):
        made.write(open_store(str(folder)))
    MadeUpAudit(name="audit", variants=("no_retrain",)).write(open_store(str(folder)))
    return folder


def test_show_has_a_table_per_metric_with_the_best_method_first(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "few", "--store", str(store))
    assert done.code == 0, done.err
    assert "Run few-00000000: 60 rows" in done.out
    assert "deletion_auc (lower is better; 60 images): area under the deletion curve" in done.out
    assert "complexity_sparseness (neither direction is better; 60 images)" in done.out
    table = done.out.split("deletion_auc (lower")[1].split("complexity_sparseness (")[0]
    order = [
        line.split()[0] for line in table.splitlines() if line.strip().startswith(tuple(METHODS))
    ]
    assert order == ["uni", "integrated_gradients", "saliency", "random"]
    assert "tied with" in table
    assert "No value: deletion_auc, complexity_sparseness: saliency 1 of 60 (non_finite)" in (
        done.out
    )
    assert "The intervals of two methods may overlap" in done.out
    assert "Means over images" not in done.out


def test_a_matrix_marks_the_best_of_every_metric(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "made-up", "--store", str(store))
    matrix = done.out.split("Means over images")[1].split("deletion_auc (lower")[0]
    lines = {line.split()[0]: line for line in matrix.splitlines() if line.strip()}
    header = lines["metric"]
    for metric, (higher, *_) in METRICS.items():
        line = lines[metric]
        if higher is None:
            assert "*" not in line
            continue
        assert line.count("*") == 1
        # The mark stands in the column of 'uni'.
        assert abs(line.index("*") - (header.index(" uni ") + len(" uni"))) <= 1
    assert "Empty: the metric does not apply to the method." in done.out
    assert "How alike maps are" in done.out
    assert "Curves: deletion, insertion, randomisation_spearman" in done.out


def test_of_very_many_rows_the_matrix_alone_is_printed(gradattr: Any, store: Path) -> None:
    done = gradattr("show", "many", "--store", str(store))
    assert "Means over images" in done.out
    assert "tied with" not in done.out
    (unused,) = [line for line in done.out.splitlines() if line.startswith("Applies to none of")]
    assert "path_monotonicity" in unused
    assert "deletion_auc" not in unused
    asked = done.out.split("gradattr query ")[1]
    sql = asked.split('"')[1].replace("\n", " ")
    rows = json.loads(gradattr("query", "many", sql, "--store", str(store), "--json").out)
    assert {row["metric"] for row in rows} <= set(METRICS)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("run", ["made-up", "many"])
def test_a_number_stands_on_one_line(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, store: Path, run: str, width: int
) -> None:
    wide = Console(width=width, highlight=False)
    monkeypatch.setattr(output, "console", lambda: wide)
    monkeypatch.setattr(evaluation, "console", lambda: wide)
    show_run(run, str(store), None, False, None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.count("[") == line.count("]") for line in lines)
    matrix = "\n".join(lines).split("Means over images")[1].split("*: rank 1")[0].splitlines()
    named = [line for line in matrix if line.strip() and "─" not in line]
    absent = {"path_monotonicity"} if run == "many" else set()
    assert {line.split()[0] for line in named} == {"metric", *METRICS} - absent


def test_an_interval_has_the_digits_that_mean_something() -> None:
    def written(mean: float, low: float | None, high: float | None) -> str:
        return evaluation._interval({"mean": mean, "low": low, "high": high})

    assert written(0.16769, 0.15412, 0.18061) == "0.168 [0.154, 0.181]"
    assert written(1234.5, 1204.2, 1251.4) == "1234 [1204, 1251]"
    assert written(1.5e-9, 1.1e-9, 2e-9) == "1.5e-09 [1.1e-09, 2e-09]"
    assert written(0.5, 0.5, 0.5) == "0.5 [0.5, 0.5]"
    assert written(0.25, None, None) == "0.25"


def test_metrics_that_random_maps_win_are_named(gradattr: Any, store: Path) -> None:
    equal = MadeUpEvaluation(
        name="equal", methods={"a": 0.5, "b": 0.52, "random": 0.51}, agreement=False, curves=()
    )
    equal.write(open_store(str(store)))
    done = gradattr("show", "equal", "--store", str(store))
    said = "Random maps are the best, or not told apart from them, in: deletion_auc, insertion_auc"
    assert said in done.out
    assert "Random maps" not in gradattr("show", "made-up", "--store", str(store)).out


def test_why_values_are_missing_is_counted() -> None:
    row = {"method": "lime", "n": 6, "missing": 4}
    why = [
        {"method": "lime", "status": "undefined", "n": 2},
        {"method": "lime", "status": "decode_error", "n": 1},
    ]
    metric = {"metric": "road_score", "methods": [row], "missing": why}
    others = [{**metric, "metric": f"other_{i}"} for i in range(5)]
    (note,) = missing_notes([metric, *others])
    assert note == (
        "No value: road_score, other_0, other_1, other_2 and 2 more metrics: lime 4 of 10 "
        "(undefined 2, decode_error 1, not judged 1)"
    )


def test_show_as_json_holds_every_number(gradattr: Any, store: Path) -> None:
    found = json.loads(gradattr("show", "made-up", "--store", str(store), "--json").out)
    metrics = found["evaluation"]["metrics"]
    assert [metric["metric"] for metric in metrics] == list(METRICS)
    best = metrics[0]["methods"][0]
    assert (best["method"], best["rank"], best["tied_with"]) == ("uni", 1, [])
    assert best["low"] < best["mean"] < best["high"]


def test_a_notebook_shows_means_and_ranks(store: Path) -> None:
    from gradattr.report.results import Run

    shown = Run(open_store(str(store)), "few-00000000")._repr_html_()
    for word in ("deletion_auc", "uni", "tied with", "complexity_sparseness"):
        assert word in shown


def test_plot_draws_every_figure_into_a_folder(
    gradattr: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gradattr("plot", "made-up", "--store", str(store))
    folder = Path("made-up-00000000")
    names = ["curves.png", "metrics.png", "agreement.png"]
    assert (done.code, done.out.strip()) == (0, f"Figures: {folder} ({', '.join(names)})")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_what_a_run_does_not_have_is_said(gradattr: Any, store: Path, tmp_path: Path) -> None:
    done = gradattr("plot", "few", "--store", str(store), "-o", str(tmp_path / "few"))
    assert done.code == 0
    assert f"Figures: {tmp_path / 'few'} (metrics.png)" in done.out
    assert "No figure 'curves': none of its metrics has a curve" in done.out
    assert "No figure 'agreement': its manifest has no metric 'agreement'" in done.out


def test_one_figure_goes_into_a_file(gradattr: Any, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.svg"
    where = ("--store", str(store), "-o", str(target), "--figure", "metrics")
    done = gradattr("plot", "few", *where)
    assert (done.code, done.out.strip()) == (0, f"Figure: {target}")
    assert target.read_text().startswith("<?xml")
    folder = gradattr("plot", "few", *where[:2], "-o", str(tmp_path / "f"), "--figure", "metrics")
    assert folder.out.strip() == f"Figures: {tmp_path / 'f'} (metrics.png)"


def test_show_draws_the_metrics_too(gradattr: Any, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "metrics.png"
    done = gradattr("show", "few", "--store", str(store), "--png", str(target))
    assert f"Metrics: {target}" in done.out
    assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["few", "-o", "out.png"], "a file shows one figure; choose it by --figure"),
        (["few", "--figure", "bars"], "--figure bars: expected curves, metrics, agreement"),
        (["few", "-o", "a.png", "--figure", "curves"], "has no figure 'curves'"),
        (["few", "made-up"], "is of kind 'evaluate', which is drawn alone"),
        (["few", "--pred-power"], "--pred-power is for audits; run few-00000000 is of kind"),
        (["few", "--query", "0"], "--query: for runs of kind 'tfa'; run few-00000000 is of kind"),
        (
            ["audit", "--figure", "metrics"],
            "--figure: for runs of kind 'evaluate'; these are audits",
        ),
    ],
)
def test_plot_refuses_what_does_not_fit(
    gradattr: Any,
    store: Path,
    tmp_path: Path,
    monkeypatch: Any,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gradattr("plot", *arguments, "--store", str(store))
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert not list(tmp_path.iterdir())
