"""Which predictions become queries, and in which order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.errors import GradattrError, ShardError
from gradattr.manifest.tfa import Queries
from gradattr.report.summary import summarise
from gradattr.seeds import sample_seeds
from gradattr.work.tfa.queries import choose
from tests.small_tfa import digits_npz
from tests.tfa_oracle import Oracle, close, finished

Row = dict[str, Any]
#: Trained on the digits, whatever the queries are, and tested on nothing.
UNTESTED = {
    "arch": "mlp",
    "hidden": [12],
    "train": {"data": {"format": "digits", "split": "train", "limit": 60}, "epochs": 3, "lr": 0.05,
              "batch_size": 32, "test": None},
}  # fmt: skip

CG = [
    "grad_cos",
    {"score": "influence", "id": "cg", "inverse": "cg", "examples": 10},
    {"score": "influence", "examples": 10},
]


@pytest.fixture(scope="module")
def everything(tfa: Any) -> Oracle:
    return Oracle(tfa(name="everyone", maps=[], scores=["random"], queries={"count": 40}))


@pytest.fixture(scope="module")
def said(everything: Oracle) -> list[Row]:
    return everything.run.table("predictions").to_pylist()


def chosen(said: list[Row], **fields: Any) -> list[Row]:
    asked = Queries.model_validate({"data": "digits", **fields})
    return choose(said, asked, 0, [f"class {number}" for number in range(10)])


def test_predictions_are_what_the_model_says(everything: Oracle, said: list[Row]) -> None:
    assert [row["row"] for row in said] == list(range(40))
    order = [everything.queries.rows.index(row) for row in range(40)]
    logs = everything.model(everything.queries.x[order].double()).log_softmax(1).detach()
    labels = everything.queries.labels[order]
    assert [row["label"] for row in said] == labels.tolist()
    assert [row["predicted"] for row in said] == logs.argmax(1).tolist()
    assert [row["correct"] for row in said] == (logs.argmax(1) == labels).tolist()
    losses = -logs.gather(1, labels[:, None])[:, 0]
    close(np.array([row["loss"] for row in said]), losses, 1e-6)
    close(np.array([row["confidence"] for row in said]), logs.exp().max(1).values, 1e-6)


def test_queries_are_numbered_in_their_order(everything: Oracle, said: list[Row]) -> None:
    queries = everything.run.table("queries").to_pylist()
    assert [row["query"] for row in queries] == list(range(40))
    by_row = {row["row"]: row for row in said}
    for query in queries:
        of = by_row[query["query_row"]]
        for name in ("sample_id", "label", "predicted", "correct", "confidence", "loss"):
            assert query[name] == of[name]
    seeds = sample_seeds(everything.manifest.seed, "query order", [q["sample_id"] for q in queries])
    assert seeds == sorted(seeds)


def test_a_random_order_of_fewer_is_its_beginning(everything: Oracle, tfa: Any) -> None:
    few = finished(tfa(name="fewer", maps=[], scores=["random"], shard_rows=7))
    ids = everything.run.table("queries")["sample_id"].to_pylist()
    assert few.table("queries")["sample_id"].to_pylist() == ids[:5]


def test_select(said: list[Row]) -> None:
    right = {row["row"] for row in said if row["correct"]}
    assert 0 < len(right) < 40
    every = {select: chosen(said, select=select) for select in ("all", "correct", "misclassified")}
    assert {row["row"] for row in every["correct"]} == right
    assert {row["row"] for row in every["misclassified"]} == set(range(40)) - right
    assert len(every["all"]) == 40


def test_classes_by_number_and_by_name(said: list[Row]) -> None:
    for classes in ([3, 8], ["class 8", "class 3"], [8, "class 3", 3]):
        rows = chosen(said, classes=classes)
        assert {row["label"] for row in rows} == {3, 8}
        assert len(rows) == sum(row["label"] in (3, 8) for row in said)


def test_per_class_and_count(said: list[Row]) -> None:
    rows = chosen(said, per_class=2)
    counts = Counter(row["label"] for row in rows)
    assert counts == {label: min(2, n) for label, n in Counter(r["label"] for r in said).items()}
    assert chosen(said, per_class=2, count=7) == rows[:7]
    assert len(chosen(said, count=7)) == 7


def test_orders(said: list[Row]) -> None:
    losses = [row["loss"] for row in chosen(said, order="loss")]
    assert losses == sorted(losses, reverse=True)
    assert [row["row"] for row in chosen(said[::-1], order="row")] == list(range(40))
    random = [row["row"] for row in chosen(said)]
    assert random != sorted(random)
    assert [row["row"] for row in chosen(said[::-1])] == random


def test_equal_losses_stand_in_the_order_of_rows(said: list[Row]) -> None:
    alike = [{**row, "loss": row["label"] % 2} for row in said[::-1]]
    rows = chosen(alike, order="loss")
    assert [(-row["loss"], row["row"]) for row in rows] == sorted(
        (-row["loss"], row["row"]) for row in alike
    )


def test_ids_keep_their_order(tfa: Any, said: list[Row]) -> None:
    ids = [said[row]["sample_id"] for row in (30, 2, 17)]
    found = finished(tfa(name="ids", maps=[], queries={"ids": ids}))
    assert found.table("queries")["sample_id"].to_pylist() == ids
    assert found.table("queries")["query_row"].to_pylist() == [30, 2, 17]


def test_an_unknown_id_is_named(tfa: Any) -> None:
    with pytest.raises(GradattrError, match=r"'x9' is not in the query data \(1 of 2 are not\)"):
        finished(tfa(name="unknown", maps=[], queries={"ids": ["00000000", "x9"]}))


def broken(path: Path) -> dict[str, Any]:
    """Eight images: row 3 has a NaN, row 5 no label, row 6 pixels too large for the model."""
    images = digits_images(8)
    images[3, 0, 0] = np.nan
    images[6] = 3e38
    return digits_npz(path, range(8), labels=[0, 1, 2, 3, 4, -1, 6, 9], images=images)


def digits_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 8, 8)).astype(np.float32)


def test_bad_queries_are_left_out_and_told(tfa: Any, tmp_path: Path) -> None:
    data = broken(tmp_path / "q.npz")
    queries = {"data": data, "count": 8, "order": "row"}
    fixed = {"model": UNTESTED, "maps": []}
    found = finished(tfa(name="badq", queries=queries, errors={"max": 2}, **fixed))
    assert found.table("queries")["query_row"].to_pylist() == [0, 1, 2, 4, 7]
    said = found.sql('SELECT "row", status, label FROM predictions ORDER BY 1').to_pylist()
    assert [row["status"] for row in said] == [
        "ok", "ok", "ok", "decode_error", "ok", "ok", "non_finite", "ok",
    ]  # fmt: skip
    assert said[5]["label"] is None
    errors = found.sql('SELECT stage, "row", status FROM errors ORDER BY 2').to_pylist()
    assert [(e["stage"], e["row"]) for e in errors] == [("predict", 3), ("predict", 6)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (3, "'00000003' cannot be used: decode_error"),
        (5, "'00000005' has no label; use target loss_pred"),
        (6, "'00000006' cannot be used: non_finite"),
    ],
)  # fmt: skip
def test_a_bad_id_is_named(tfa: Any, tmp_path: Path, row: int, reason: str) -> None:
    data = broken(tmp_path / "q.npz")
    queries = {"data": data, "ids": ["00000000", f"0000000{row}"]}
    with pytest.raises(ShardError, match=reason):
        fixed = {"model": UNTESTED, "maps": []}
        finished(tfa(name=f"badid-{row}", queries=queries, errors={"max": 0.5}, **fixed))


def test_unlabelled_queries_have_a_predicted_label(tfa: Any, tmp_path: Path) -> None:
    rows = range(100, 106)
    bare = digits_npz(tmp_path / "bare.npz", rows, labels=None)
    named = digits_npz(tmp_path / "named.npz", rows)
    insertion = {"levels": [0.5], "lr": 0.1}
    fixed = {"keep": "full", "insertion": insertion, "maps": [{"map": "tfa", "samples": 2}]}
    runs = [
        Oracle(
            tfa(
                name=name,
                model=UNTESTED,
                queries={"data": data, "target": "loss_pred", "order": "row"},
                **fixed,
            )
        )
        for name, data in (("bare", bare), ("named", named))
    ]
    first, second = (run.run for run in runs)
    assert first.table("queries")["label"].to_pylist() == [None] * 5
    assert first.table("queries")["loss"].to_pylist() == [None] * 5
    assert first.table("queries")["correct"].to_pylist() == [None] * 5
    assert False in second.table("queries")["correct"].to_pylist()
    # The label that the query may have counts for nothing, neither in scores nor in tests.
    for table in ("tda_scores", "tfa_map_scores", "tfa_insertion", "tfa_summary"):
        assert first.table(table) == second.table(table)
    train_, queries_ = runs[1].products()
    lengths = train_.norm(dim=1)[:, None] * queries_.norm(dim=1)
    close(runs[0].scores("grad_cos"), train_ @ queries_.T / lengths)


def test_a_run_without_queries_is_a_run(tfa: Any, tmp_path: Path) -> None:
    """Of digits 0 to 5 and 9 none is an eight: tables are empty, and what reads them works."""
    data = digits_npz(tmp_path / "six.npz", [*range(6), 9])
    queries = {"data": data, "classes": [8]}
    for number, more in enumerate(
        [
            {"index": {"buckets": 16}},
            {"keep": "full", "insertion": {"levels": [0.5]}, "scores": CG},
        ]
    ):
        found = finished(tfa(name=f"nobody{number}", queries=queries, **more))
        for name in ("queries", "tfa_pairs", "tfa_maps", "tfa_map_scores"):
            assert found.table(name).num_rows == 0, name
        assert summarise(found)["kind"] == "tfa"
        assert found._repr_html_()
        assert found.pairs().num_rows == 0
    assert found.table("tfa_summary").num_rows == 0
