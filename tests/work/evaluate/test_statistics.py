"""From every image's scores to tables: each number against numpy over the scores it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from gradattr.errors import ShardError
from gradattr.metrics.statistics import summarise
from gradattr.report.results import Run
from gradattr.seeds import derive_seed
from gradattr.storage.objects import open_store
from gradattr.storage.run_json import create_run
from gradattr.work.evaluate.statistics import Found, add_curves, add_scores, summarise_scores
from tests.made_up_evaluations import METHODS, METRICS, MODULES, PATHS, SHARES, MadeUpEvaluation

TABLES = ("summary", "differences", "curves", "agreement")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def made() -> MadeUpEvaluation:
    return MadeUpEvaluation()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, made: MadeUpEvaluation) -> Run:
    store = open_store(str(tmp_path_factory.mktemp("evaluation")))
    return Run(store, made.write(store).run_id)


def rows_of(run: Run, table: str, **where: object) -> list[Row]:
    rows = run.table(table).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def test_a_mean_is_over_the_images_that_have_a_value(run: Run, made: MadeUpEvaluation) -> None:
    for metric in METRICS:
        images = made.images_of(metric)
        for method, values in made.values(metric).items():
            (row,) = rows_of(run, "summary", metric=metric, method=method)
            own = values[images][~np.isnan(values[images])]
            assert (row["n"], row["missing"]) == (len(own), len(images) - len(own))
            assert row["mean"] == pytest.approx(own.mean())
            assert row["sd"] == pytest.approx(own.std(ddof=1))
            assert row["low"] < row["mean"] < row["high"]
    (first, *_) = METHODS
    assert rows_of(run, "summary", metric="deletion_auc", method=first)[0]["missing"] == 1


def test_intervals_depend_on_the_metric_and_the_manifests_seed(
    run: Run, made: MadeUpEvaluation
) -> None:
    seed = derive_seed(0, "statistics", "insertion_auc")
    expected = summarise(made.values("insertion_auc")["uni"], seed=seed)
    (row,) = rows_of(run, "summary", metric="insertion_auc", method="uni")
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_the_tables_keep_the_manifests_order(run: Run) -> None:
    table = run.table("summary")
    assert list(dict.fromkeys(table["metric"].to_pylist())) == list(METRICS)
    own = [row["method"] for row in rows_of(run, "summary", metric="deletion_auc")]
    assert own == list(METHODS)


def test_a_method_to_which_a_metric_does_not_apply_takes_no_part(run: Run) -> None:
    where = {"metric": "path_monotonicity"}
    assert [row["method"] for row in rows_of(run, "summary", **where)] == list(PATHS)
    assert [row["rank"] for row in rows_of(run, "summary", **where)] == [2, 1]
    (pair,) = rows_of(run, "differences", **where)
    assert (pair["first"], pair["second"]) == PATHS


def test_differences_are_paired_by_image(run: Run, made: MadeUpEvaluation) -> None:
    for metric in METRICS:
        values = made.values(metric)
        for row in rows_of(run, "differences", metric=metric):
            images = made.images_of(metric)
            apart = (values[row["first"]] - values[row["second"]])[images]
            apart = apart[~np.isnan(apart)]
            assert row["n"] == len(apart)
            assert row["mean"] == pytest.approx(apart.mean())
            assert row["low"] <= row["mean"] <= row["high"]
            assert row["p"] <= row["p_corrected"] <= 1
    pairs = len(METHODS) * (len(METHODS) - 1) // 2
    assert len(rows_of(run, "differences", metric="deletion_auc")) == pairs


@pytest.mark.parametrize("metric", ["deletion_auc", "insertion_auc"])
def test_ranks_follow_the_metrics_direction(run: Run, made: MadeUpEvaluation, metric: str) -> None:
    values = np.stack(list(made.values(metric).values()), axis=1)
    values = values[~np.isnan(values).any(axis=1)]
    ranks = rankdata(values if metric == "deletion_auc" else -values, axis=1).mean(axis=0)
    found = rows_of(run, "summary", metric=metric)
    assert [row["mean_rank"] for row in found] == pytest.approx(ranks.tolist())
    assert [row["rank"] for row in found] == rankdata(ranks).astype(int).tolist()
    assert {row["method"]: row["rank"] for row in found}["uni"] == 1


def test_where_no_direction_is_better_nothing_is_ranked(run: Run) -> None:
    found = rows_of(run, "summary", metric="complexity_sparseness")
    for name in ("higher_is_better", "mean_rank", "rank", "tied_with"):
        assert {row[name] for row in found} == {None}
    assert rows_of(run, "differences", metric="complexity_sparseness")


def test_tied_methods_are_those_whose_difference_is_not_told_from_zero(run: Run) -> None:
    for metric, (higher, *_) in METRICS.items():
        if higher is None:
            continue
        tied = {
            frozenset((row["first"], row["second"]))
            for row in rows_of(run, "differences", metric=metric)
            if row["p_corrected"] >= 0.05
        }
        for row in rows_of(run, "summary", metric=metric):
            mine = {next(iter(pair - {row["method"]})) for pair in tied if row["method"] in pair}
            assert set(row["tied_with"]) == mine


def test_a_curve_has_a_mean_per_step(run: Run, made: MadeUpEvaluation) -> None:
    lists = made.curve("deletion")["saliency"][:-1]
    found = rows_of(run, "curves", curve="deletion", method="saliency")
    assert [row["step"] for row in found] == list(range(11))
    assert [row["x"] for row in found] == list(SHARES)
    assert {row["label"] for row in found} == {None}
    assert {row["n"] for row in found} == {made.images - 1}
    assert [row["mean"] for row in found] == pytest.approx(lists.mean(axis=0).tolist())
    assert all(row["low"] < row["mean"] < row["high"] for row in found)


def test_stages_have_labels_in_place_of_places(run: Run) -> None:
    found = rows_of(run, "curves", curve="randomisation_spearman", method="uni")
    assert [row["label"] for row in found] == list(MODULES)
    assert {row["x"] for row in found} == {None}


def test_agreement_is_a_mean_by_pair_and_measure(run: Run, made: MadeUpEvaluation) -> None:
    for first, second in made.pairs():
        for measure, values in made.likeness(first, second).items():
            (row,) = rows_of(run, "agreement", first=first, second=second, measure=measure)
            assert (row["n"], row["mean"]) == (made.images, pytest.approx(values.mean()))


@pytest.mark.parametrize(("shards", "order"), [(1, 1), (3, 2), (7, 3)])
def test_neither_shards_nor_the_order_of_rows_matter(
    run: Run, tmp_path: Path, shards: int, order: int
) -> None:
    other = MadeUpEvaluation(shards=shards, order=order)
    store = open_store(str(tmp_path))
    same = Run(store, other.write(store).run_id)
    for name in TABLES:
        assert same.table(name).num_rows
        assert same.table(name).equals(run.table(name)), name


def test_without_curves_and_agreement_the_other_tables_are_there(tmp_path: Path) -> None:
    made = MadeUpEvaluation(metrics=("deletion_auc",), curves=(), agreement=False)
    store = open_store(str(tmp_path))
    run = Run(store, made.write(store).run_id)
    sizes = {name: run.table(name).num_rows for name in TABLES}
    assert sizes == {"summary": 4, "differences": 6, "curves": 0, "agreement": 0}


def part(rows: list[int], values: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.array(rows, np.int64), np.array(values, np.float64)


DELETION = [{"metric": "deletion_auc", "higher_is_better": False}]


def test_a_method_without_any_value_has_a_row_and_no_rank() -> None:
    found = Found(0, ["a", "b", "c"])
    scores = {
        "a": [part([0, 1, 2], [0.1, 0.2, 0.3])],
        "b": [part([0, 1, 2], [np.nan] * 3)],
        "c": [part([0, 1, 2], [0.1, 0.2, 0.4])],
    }
    add_scores(found, {"deletion_auc": scores}, DELETION)
    rows = {row["method"]: row for row in found.tables["summary"]}
    assert [rows["b"][name] for name in ("n", "missing", "mean", "low")] == [0, 3, None, None]
    assert [rows["b"][name] for name in ("mean_rank", "rank", "tied_with")] == [None] * 3
    assert [rows[name]["rank"] for name in "ac"] == [1, 2]
    assert rows["a"]["tied_with"] == ["c"]
    empty = next(row for row in found.tables["differences"] if row["first"] == "b")
    assert (empty["n"], empty["p"]) == (0, None)


def test_infinite_values_are_missing_and_counted() -> None:
    found = Found(0, ["a"])
    add_scores(found, {"deletion_auc": {"a": [part([0, 1, 2], [1, np.inf, 3])]}}, DELETION)
    (row,) = found.tables["summary"]
    assert (row["n"], row["missing"], row["mean"], found.infinite) == (2, 1, 2.0, 1)


def test_an_image_that_stands_there_twice_is_named() -> None:
    scores = {"deletion_auc": {"a": [part([0, 1], [1, 2]), part([1], [2])]}}
    with pytest.raises(ShardError, match="deletion_auc: 1 images of a stand there twice"):
        add_scores(Found(0, ["a"]), scores, DELETION)


def test_what_the_plan_does_not_know_is_named() -> None:
    with pytest.raises(ShardError, match="metric other: is in the records and not in the plan"):
        add_scores(Found(0, ["a"]), {"other": {"a": []}}, DELETION)
    with pytest.raises(ShardError, match="method b: is in the records"):
        add_scores(Found(0, ["a"]), {"deletion_auc": {"b": []}}, DELETION)


@pytest.mark.parametrize("x", [[0.0, 0.5, 1.0], None])
def test_curves_of_other_lengths_are_named(x: list[float] | None) -> None:
    curves = [{"curve": "deletion", "x": x, "labels": None}]
    scores = {"a": [part([0], [[1.0, 0.5]])], "b": [part([0], [[1.0, 0.5, 0.1]])]}
    with pytest.raises(ShardError, match="curve deletion: has 2 and 3 steps"):
        add_curves(Found(0, ["a", "b"]), {"deletion": scores}, curves)


def test_stages_with_other_names_in_another_shard_are_named(tmp_path: Path) -> None:
    made, store = MadeUpEvaluation(shards=2), open_store(str(tmp_path))
    labels = iter([list(MODULES), ["fc", "conv1"]])
    made.extra = lambda rows: {"curve_labels": {"randomisation_spearman": next(labels)}}  # type: ignore[method-assign]
    context = made.begin(store)
    with pytest.raises(ShardError, match="randomisation_spearman: the steps have different names"):
        summarise_scores(context, made.task())


def test_a_method_without_any_curve_has_rows_without_a_mean() -> None:
    found = Found(0, ["a"])
    curves = [{"curve": "deletion", "x": [0.0, 1.0], "labels": None}]
    nothing = (np.array([0, 1], np.int64), np.empty((2, 0)))
    add_curves(found, {"deletion": {"a": [nothing]}}, curves)
    assert [(row["step"], row["n"], row["mean"]) for row in found.tables["curves"]] == [
        (0, 0, None),
        (1, 0, None),
    ]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    made, store = MadeUpEvaluation(), open_store(str(tmp_path))
    context = made.context(store)
    create_run(store, made.run_json(context))
    with pytest.raises(ShardError, match=r"judge.*part-0.*run the same command again"):
        summarise_scores(context, made.task())


def test_a_shard_in_which_nothing_could_be_judged_changes_nothing(run: Run, tmp_path: Path) -> None:
    """Its table has no rows, or none at all."""
    made, store = MadeUpEvaluation(images=60, shards=3), open_store(str(tmp_path))
    made.parts["part-3"] = np.array([60])
    made.tables = lambda rows, own=made.tables: {} if 60 in rows else own(rows)  # type: ignore[method-assign,misc]
    same = Run(store, made.write(store).run_id)
    assert same.table("summary").equals(run.table("summary"))
