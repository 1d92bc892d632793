"""The exact merge: pairs are the ends of the whole column of scores, whatever was merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_tfa import digits_npz
from tests.tfa_oracle import Oracle, finished, rows_of

TOP = 2
SCORES = ["grad_cos", "grad_dot", "random"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """60 images: 12 ones that stand there three times, and 24 that stand there once."""
    path = tmp_path_factory.mktemp("pairs") / "data.npz"
    rows = [*range(12), *range(30, 54), *range(12), *reversed(range(12))]
    return digits_npz(path, rows)


@pytest.fixture(scope="module")
def small(tfa: Any, data: dict[str, Any]) -> Any:
    """A manifest on these images with the model of all the others."""
    train = {"data": {"format": "digits", "split": "train", "limit": 60}}
    train |= {"epochs": 3, "lr": 0.05, "batch_size": 32}

    def make(name: str, **changes: Any) -> Any:
        fixed = {"data": data, "scores": SCORES, "top": TOP, "shard_rows": 60, "maps": []}
        model = {"arch": "mlp", "hidden": [12], "train": train}
        return tfa(**(fixed | {"name": name, "model": model} | changes))

    return make


@pytest.fixture(scope="module")
def full(small: Any) -> Oracle:
    return Oracle(small("full", keep="full"))


def ends(scores: np.ndarray, count: int, side: str) -> list[int]:
    """The rows of the highest or lowest scores, best first, the earlier row of equal ones."""
    sign = -1 if side == "helpful" else 1
    order = sorted(range(len(scores)), key=lambda row: (sign * scores[row], row))
    return order[:count]


@pytest.mark.parametrize("method", SCORES)
@pytest.mark.parametrize("side", ["helpful", "harmful"])
def test_pairs_are_the_ends_of_the_matrix(full: Oracle, method: str, side: str) -> None:
    matrix = full.scores(method)
    pairs = [
        row
        for row in rows_of(full.run, "tfa_pairs")
        if (row["method"], row["side"]) == (method, side)
    ]
    for query in range(5):
        own = [row for row in pairs if row["query"] == query]
        wanted = [
            row
            for row in ends(matrix[:, query], TOP, side)
            if (matrix[row, query] > 0) == (side == "helpful") and matrix[row, query]
        ]
        assert [row["train_row"] for row in own] == wanted
        assert [row["rank"] for row in own] == list(range(1, len(wanted) + 1))
        assert [np.float32(row["score"]) for row in own] == matrix[wanted, query].tolist()


def test_there_are_ties_to_break(full: Oracle) -> None:
    matrix = full.scores("grad_cos")
    cut = 0
    for query in range(5):
        ordered = np.sort(matrix[:, query])[::-1]
        cut += ordered[TOP - 1] == ordered[TOP]
    assert cut > 1


def test_what_a_pair_says_of_its_images(full: Oracle) -> None:
    queries = full.run.table("queries").to_pylist()
    logits = full.model(full.train.x.double()).log_softmax(1).detach()
    for pair in full.run.table("tfa_pairs").to_pylist():
        query, at = queries[pair["query"]], pair["train_row"]
        assert pair["query_id"] == query["sample_id"]
        assert (pair["query_label"], pair["query_predicted"]) == (
            query["label"],
            query["predicted"],
        )
        label = int(full.train.labels[at])
        assert (pair["train_id"], pair["train_label"]) == (full.train.sample_ids[at], label)
        assert pair["train_predicted"] == int(logits[at].argmax())
        assert pair["train_loss"] == pytest.approx(-float(logits[at, label]), rel=1e-4)
        assert pair["marked_area"] is None


def test_helpful_means_above_zero_and_harmful_below(small: Any) -> None:
    """With more places than examples of a side, the sides end where the sign changes."""
    oracle = Oracle(small("all", keep="full", top=100, scores=["grad_dot"]))
    matrix = oracle.scores("grad_dot")
    pairs = rows_of(oracle.run, "tfa_pairs")
    for query in range(5):
        for side, count in (
            ("helpful", (matrix[:, query] > 0).sum()),
            ("harmful", (matrix[:, query] < 0).sum()),
        ):
            own = [row for row in pairs if (row["query"], row["side"]) == (query, side)]
            assert [row["rank"] for row in own] == list(range(1, count + 1))


@pytest.mark.parametrize("shard_rows", [7, 25])
def test_the_merge_of_shards_breaks_ties_by_row(small: Any, shard_rows: int) -> None:
    """Scores of one run, whatever its shards: the pairs are the ends of that run's matrix."""
    oracle = Oracle(small(f"shards-{shard_rows}", keep="full", shard_rows=shard_rows))
    for method in SCORES:
        matrix = oracle.scores(method)
        for row in rows_of(oracle.run, "tfa_pairs"):
            if row["method"] == method:
                order = ends(matrix[:, row["query"]], TOP, row["side"])
                assert order[row["rank"] - 1] == row["train_row"]


@pytest.mark.parametrize("top", [2, 7, 200])
def test_keep_the_ends(small: Any, full: Oracle, top: int) -> None:
    oracle = Oracle(small(f"top-{top}", keep=f"top:{top}"))
    for method in SCORES:
        matrix, kept = full.scores(method), oracle.scores(method)
        for query in range(5):
            wanted = {row for s in ("helpful", "harmful") for row in ends(matrix[:, query], top, s)}
            there = np.flatnonzero(~np.isnan(kept[:, query]))
            assert set(there.tolist()) == wanted
            assert (kept[there, query] == matrix[there, query]).all()
    assert rows_of(oracle.run, "tfa_pairs") == rows_of(full.run, "tfa_pairs")


def test_keep_what_is_above(small: Any, full: Oracle) -> None:
    oracle = Oracle(small("above", keep="above:0.2"))
    for method in SCORES:
        matrix, kept = full.scores(method), oracle.scores(method)
        there = ~np.isnan(kept)
        assert (there == (np.abs(matrix) >= np.float32(0.2))).all()
        assert there.any()
        assert (kept[there] == matrix[there]).all()
    assert rows_of(oracle.run, "tfa_pairs") == rows_of(full.run, "tfa_pairs")


def test_keep_nothing(small: Any, full: Oracle) -> None:
    found = finished(small("none", keep="none"))
    assert "tda_scores" not in found.tables
    assert rows_of(found, "tfa_pairs") == rows_of(full.run, "tfa_pairs")


def test_merging_in_many_steps_is_merging_at_once(
    small: Any, full: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where waiting rows are thinned out after every file, and files hold a few rows each."""
    monkeypatch.setattr("gradattr.work.tfa.merge._MERGE_AT", 3)
    monkeypatch.setattr("gradattr.work.tfa.score_matrix._ROWS_AT_ONCE", 16)
    oracle = Oracle(small("thin", keep="full", top=1))
    for method in SCORES:
        assert (oracle.scores(method) == full.scores(method)).all()
    wanted = [row for row in rows_of(full.run, "tfa_pairs") if row["rank"] == 1]
    assert rows_of(oracle.run, "tfa_pairs") == wanted


def test_pairs_of_a_data_set_smaller_than_top(tfa: Any, tmp_path: Path) -> None:
    data = digits_npz(tmp_path / "few.npz", [3, 14, 15])
    train = {"data": {"format": "digits", "split": "train", "limit": 60}, "epochs": 1}
    model = {"arch": "mlp", "hidden": [12], "train": train}
    found = finished(tfa(name="few", data=data, model=model, top=50, maps=[]))
    counts = found.sql("SELECT query, count(*) AS n FROM tfa_pairs GROUP BY 1").to_pylist()
    assert [row["n"] for row in counts] == [3] * 5


def test_solutions_are_kept_apart_by_score_and_not_by_the_letters_of_its_name(small: Any) -> None:
    inverse = {"score": "influence", "inverse": "cg", "examples": 20}
    scores = [
        inverse | {"id": name, "damping": damping}
        for name, damping in (("in-v", 1.0), ("in.v", 10.0), ("IN-V", 100.0))
    ]
    oracle = Oracle(small("alike", keep="full", scores=scores))
    largest = [np.abs(oracle.scores(name)).max() for name in ("in-v", "in.v", "IN-V")]
    # For large damping influence is grad-dot over the damping.
    assert 2 < largest[0] / largest[1] < 10
    assert largest[1] / largest[2] == pytest.approx(10, rel=0.2)
