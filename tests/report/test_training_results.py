"""A run of kind tfa, opened in Python: pairs, maps, SQL, summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradattr.errors import UsageError
from gradattr.report.results import Run
from gradattr.report.summary import summarise
from gradattr.storage import reader
from gradattr.storage.objects import open_store
from tests.made_up_tfa import BLOCKS, FAILED, MadeUpTfa

Made = tuple[MadeUpTfa, Run]


def written(folder: Any, **changes: Any) -> Made:
    made, store = MadeUpTfa(**changes), open_store(str(folder))
    made.write(store)
    return made, Run(store, made.run_id)


@pytest.fixture(scope="module")
def tfa(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return written(tmp_path_factory.mktemp("tfa"))


def test_scores_maps_and_pairs(tfa: Made) -> None:
    made, run = tfa
    assert run.methods == ["grad_cos", "random"]
    assert run.map_methods == ["tfa", "plain", "deep"]
    assert run.pairs().num_rows == len(made.pairs) == 60
    (pair, *rest) = run.pairs(3, "random").to_pylist()
    assert {row["query"] for row in (pair, *rest)} == {3}
    assert len(rest) == 5
    assert (pair["side"], pair["rank"]) == ("helpful", 1)


@pytest.mark.parametrize("map_method", [None, "plain", "deep"])
def test_the_map_of_a_pair(tfa: Made, map_method: str | None) -> None:
    made, run = tfa
    for pair in made.pairs[12:18]:
        values = made.values(pair, map_method or "tfa")
        assert values is not None
        found = run.training_map(pair["query"], pair["train_id"], pair["method"], map_method)
        assert found.dtype == np.float32
        assert np.abs(found - values).max() <= 1e-3 * np.abs(values).max()


def test_a_map_that_is_not_there_is_said(tfa: Made) -> None:
    made, run = tfa
    query, side, rank = FAILED
    wanted = (query, "grad_cos", side, rank)
    (bad,) = (p for p in made.pairs if (p["query"], p["method"], p["side"], p["rank"]) == wanted)
    with pytest.raises(UsageError, match="its status is 'non_finite'"):
        run.training_map(query, bad["train_id"])
    with pytest.raises(UsageError, match="no map 'tfa' of training image 'nobody' for query 1"):
        run.training_map(1, "nobody")
    with pytest.raises(UsageError, match="no map 'other'"):
        run.training_map(1, made.pairs[12]["train_id"], map_method="other")
    with pytest.raises(UsageError, match="for query 99"):
        run.training_map(99, "00000001")


def test_only_files_of_the_query_are_read(tfa: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shards, of queries 0-1, 2-3 and 4; two tables of maps."""
    _, run = tfa
    read: list[str] = []
    plain = reader.read_verified

    def counting(store: Any, paths: Any, file: Any, *rest: Any) -> Any:
        read.append(file.key)
        return plain(store, paths, file, *rest)

    monkeypatch.setattr(reader, "read_verified", counting)
    found = reader.training_maps(run.store, run.commit, 2)
    assert len(found) == 2 * 6 * 3
    assert len(read) == 2
    assert all("/part-000002-" in key for key in read)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("SELECT count(*) AS n FROM tda_scores WHERE score > 0", [{"n": 30}]),
        (
            "SELECT list_sum(map) * scale AS s FROM tfa_maps JOIN tfa_pairs "
            "USING (query, method, side, rank) WHERE query = 1 AND rank = 1 AND side = 'helpful' "
            "AND method = 'grad_cos' AND map_method = 'tfa'",
            None,
        ),
        ("SELECT height, len(map) AS n FROM tfa_layer_maps LIMIT 1", [{"height": 8, "n": 64}]),
        ("SELECT sketch[1] AS v, len(sketch) AS n FROM sketches WHERE train_row = 512",
         [{"v": 0.5, "n": 16}]),
        ("SELECT count(*) AS n FROM tensors", [{"n": 0}]),
        ("SELECT sum(top - random) < 0 AS better FROM tfa_insertion WHERE side = 'helpful'",
         [{"better": True}]),
    ],
)  # fmt: skip
def test_sql_reads_every_table(tfa: Made, text: str, answer: Any) -> None:
    made, run = tfa
    found = run.sql(text).to_pylist()
    if answer is None:
        (pair,) = (
            p for p in made.pairs
            if (p["query"], p["rank"], p["side"], p["method"]) == (1, 1, "helpful", "grad_cos")
        )  # fmt: skip
        values = made.values(pair, "tfa")
        assert values is not None
        assert [row["s"] for row in found] == [pytest.approx(values.sum(), rel=1e-3)]
    else:
        assert found == answer


def test_a_summary_has_the_strongest_pairs(tfa: Made) -> None:
    made, run = tfa
    found = summarise(run)["tfa"]
    assert (found["queries"], found["pairs"], found["maps"]) == (5, 60, 180)
    assert [(e["method"], e["query"]) for e in found["strongest"]] == [
        (method, query) for method in run.methods for query in range(5)
    ]
    for entry in found["strongest"]:
        for side in ("helpful", "harmful"):
            keys = (entry["query"], entry["method"], side, 1)
            (pair,) = (
                p for p in made.pairs if (p["query"], p["method"], p["side"], p["rank"]) == keys
            )
            assert entry[side]["train_id"] == pair["train_id"]
            assert entry[side]["score"] == pytest.approx(pair["score"])
    assert [row["map_method"] for row in found["judged"][:3]] == run.map_methods
    assert {row["marked_share"] for row in found["judged"]} == {None}
    assert sum(row["bad"] for row in found["judged"]) == 6
    assert len(found["insertion"]) == 2 * 2 * 2 * 10
    assert [(row["method"], row["side"]) for row in found["recall"]] == [
        ("grad_cos", "helpful"),
        ("grad_cos", "harmful"),
    ]


def test_a_summary_compares_marked_regions_with_chance(tmp_path: Any) -> None:
    _, run = written(tmp_path, name="blocks", count=1, top=2, index=False, **BLOCKS)
    for row in summarise(run)["tfa"]["judged"]:
        assert row["marked"] == 2
        assert row["marked_area"] == 0.5
        assert row["marked_share"] == (0.75 if row["map_method"] == "tfa" else 0.5)


def test_a_notebook_shows_the_strongest_pairs(tfa: Made) -> None:
    made, run = tfa
    shown = run._repr_html_()
    for word in ("grad_cos", "helpful", "harmful", made.pairs[0]["train_id"], "0.9"):
        assert word in shown


def test_other_kinds_have_no_such_summary(opened: Any) -> None:
    assert summarise(opened)["tfa"] is None
    assert opened.map_methods == []
