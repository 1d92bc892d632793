"""Training examples that cannot be used: told once, counted, and left out of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradattr.errors import CheckError, DataError
from gradattr.report.results import Run
from tests.small_tfa import digits_npz
from tests.tfa_oracle import Oracle, close, finished, rows_of

#: Row 3 has a NaN, row 5 no label, row 8 pixels too large for the model, row 11 no label.
BAD = {3: "decode_error", 5: "label_error", 8: "non_finite", 11: "label_error"}
GOOD = [row for row in range(20) if row not in BAD]
MODEL = {
    "arch": "mlp",
    "hidden": [12],
    "train": {
        "data": {"format": "digits", "split": "train", "limit": 60},
        "epochs": 3,
        "lr": 0.05,
        "batch_size": 32,
    },
}
SCORES: list[Any] = ["grad_cos", {"score": "influence", "damping": 0.02, "examples": None}]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    digits = load_digits()
    images = (digits.images[:20] / 16).astype(np.float32)
    labels = digits.target[:20].copy()
    images[3, 2, 2] = np.nan
    images[8] = 3e38
    labels[[5, 11]] = -1
    path = tmp_path_factory.mktemp("broken") / "data.npz"
    return digits_npz(path, range(20), labels=labels, images=images)


@pytest.fixture(scope="module")
def whole(tfa: Any, broken: dict[str, Any]) -> Oracle:
    changes = {"data": broken, "model": MODEL, "shard_rows": 6, "errors": {"max": 4}}
    return Oracle(tfa(name="broken", keep="full", top=50, index={"buckets": 64}, **changes))


def told(found: Run) -> dict[int, tuple[str, str]]:
    rows = found.table("errors").to_pylist()
    assert len({row["row"] for row in rows}) == len(rows)
    return {row["row"]: (row["stage"], row["status"]) for row in rows}


def test_each_is_told_once_with_its_reason(whole: Oracle) -> None:
    assert told(whole.run) == {row: ("tda", status) for row, status in BAD.items()}
    texts = {row["row"]: row["error"] for row in whole.run.table("errors").to_pylist()}
    assert texts[5] == texts[11] == "no label, and the loss needs one"
    assert "NaN" in texts[3]
    assert texts[8] == "the gradient at it has a NaN or an infinity"


def test_they_are_in_no_table(whole: Oracle) -> None:
    for table in ("tda_scores", "tfa_pairs", "tfa_maps", "tda_extremes", "sketches"):
        rows = set(whole.run.table(table)["train_row"].to_pylist())
        assert rows <= set(GOOD), table
    for table in ("tda_scores", "sketches"):
        assert set(whole.run.table(table)["train_row"].to_pylist()) == set(GOOD)


def test_the_others_are_scored_as_if_they_were_alone(
    tfa: Any, whole: Oracle, tmp_path: Path
) -> None:
    data = digits_npz(tmp_path / "good.npz", GOOD)
    alone = Oracle(tfa(name="alone", keep="full", data=data, model=MODEL))
    ours = whole.run.table("tda_scores").to_pylist()
    matrix = np.full((20, 5), np.nan)
    for row in ours:
        matrix[row["train_row"], row["query"]] = row["score"]
    train, queries = alone.products()
    close(matrix[GOOD], train @ queries.T / train.norm(dim=1)[:, None] / queries.norm(dim=1))


def test_blocks_of_queries_and_passes_tell_them_once(
    tfa: Any, broken: dict[str, Any], whole: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradattr.work.tfa.query_directions.DIRECTION_BYTES", 1)
    changes = {"data": broken, "model": MODEL, "query_block": 2, "errors": {"max": 0.5}}
    found = finished(tfa(name="in-blocks", keep="full", top=50, **changes))
    assert told(found) == told(whole.run)
    pairs, wanted = rows_of(found, "tfa_pairs"), rows_of(whole.run, "tfa_pairs")
    assert [pair["train_row"] for pair in pairs] == [pair["train_row"] for pair in wanted]


def test_without_leave_nothing_is_committed(tfa: Any, broken: dict[str, Any]) -> None:
    """4 of the 20 training rows and of the 40 query rows."""
    manifest = tfa(name="strict", data=broken, model=MODEL, errors={"max": 3})
    with pytest.raises(CheckError, match=r"4 of 60 rows are bad") as error:
        finished(manifest)
    for part in ("1 decode_error", "2 label_error", "1 non_finite", "row 3 (00000003)"):
        assert part in str(error.value)


def test_a_share_of_all_rows_that_were_read(tfa: Any, broken: dict[str, Any]) -> None:
    fixed = {"data": broken, "model": MODEL, "maps": []}
    with pytest.raises(CheckError, match="4 of 60 rows"):
        finished(tfa(name="share-low", errors={"max": 0.06}, **fixed))
    assert finished(tfa(name="share", errors={"max": 0.07}, **fixed)).table("errors").num_rows == 4


def test_the_curvature_is_estimated_from_the_usable_rows(
    tfa: Any, tmp_path: Path, broken: dict[str, Any]
) -> None:
    """A NaN in the pixels, a missing label: the factors are those of the other rows."""
    digits = load_digits()
    images = (digits.images[:20] / 16).astype(np.float32)
    labels = digits.target[:20].copy()
    images[3, 2, 2] = np.nan
    labels[[5, 11]] = -1
    some = digits_npz(tmp_path / "some.npz", range(20), labels=labels, images=images)
    clean = digits_npz(tmp_path / "clean.npz", [r for r in range(20) if r not in (3, 5, 11)])
    fixed = {"model": MODEL, "scores": SCORES, "maps": [], "keep": "full", "errors": {"max": 3}}
    one = Oracle(tfa(name="curved", data=some, shard_rows=6, **fixed))
    other = Oracle(tfa(name="curved-clean", data=clean, **fixed))
    method = "influence"
    scores = [
        sorted(
            (row["query"], row["score"])
            for row in oracle.run.table("tda_scores").to_pylist()
            if row["method"] == method
        )
        for oracle in (one, other)
    ]
    assert len(scores[0]) == len(scores[1]) == 17 * 5
    found, wanted = (np.array([score for _, score in part]) for part in scores)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_data_without_any_label_is_refused(tfa: Any, tmp_path: Path) -> None:
    data = digits_npz(tmp_path / "bare.npz", range(20), labels=None)
    with pytest.raises(DataError, match="the training data has no labels"):
        finished(tfa(name="bare", data=data, model=MODEL))


def test_a_gradient_that_overflows_does_not_spoil_the_curvature(
    tfa: Any, broken: dict[str, Any]
) -> None:
    fixed = {"data": broken, "model": MODEL, "errors": {"max": 4}, "keep": "full"}
    found = finished(tfa(name="overflow", scores=SCORES, maps=[], **fixed))
    assert told(found) == {row: ("tda", status) for row, status in BAD.items()}
    rows = found.sql("SELECT method, count(*) AS n FROM tda_scores GROUP BY 1").to_pylist()
    assert {row["method"]: row["n"] for row in rows} == {
        "grad_cos": 5 * len(GOOD),
        "influence": 5 * len(GOOD),
    }
