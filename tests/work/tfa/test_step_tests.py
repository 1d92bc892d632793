"""Insertion and deletion tests of a run, by hand: steps on masked copies in float64."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from gradattr.errors import ShardError
from gradattr.influence import GradientProducts, pixel_order, random_order, step_tests
from gradattr.seeds import derive_seed
from tests.small_tfa import PLAIN
from tests.tfa_oracle import Oracle, map_values, rows_of

MAPS: list[Any] = [
    PLAIN,
    {"map": "two_step", "method": "gradient"},
    {"map": "two_step", "id": "chance", "method": "random"},
]
LEVELS = [0.1, 0.5, 1.0]
INSERTION: dict[str, Any] = {
    "tests": ["insertion", "deletion"],
    "levels": LEVELS,
    "steps": [1, 2],
    "lr": 0.05,
    "sides": ["helpful", "harmful"],
}
Row = dict[str, Any]
SCORES = ["grad_cos", "random"]


def with_tests(tfa: Any, name: str, **changes: Any) -> Oracle:
    fixed = {"maps": MAPS, "scores": SCORES, "queries": {"count": 3}, "insertion": INSERTION}
    return Oracle(tfa(**(fixed | {"name": name} | changes)))


@pytest.fixture(scope="module")
def whole(tfa: Any) -> Oracle:
    return with_tests(tfa, "tested")


@pytest.fixture(scope="module")
def rows(whole: Oracle) -> list[Row]:
    return rows_of(whole.run, "tfa_insertion")


def order_of(oracle: Oracle, row: Row, maps: dict[Any, np.ndarray]) -> dict[str, Tensor]:
    """Pixels of a pair by its map, signed by its side, and at random."""
    values = torch.from_numpy(
        maps[row["query"], row["method"], row["train_row"], row["map_method"]]
    )
    if row["map_method"] == "tfa":
        values = values if row["side"] == "helpful" else -values
    else:
        values = values.abs()
    ids = oracle.queries.sample_ids[row["query"]], row["train_id"]
    seeds = [derive_seed(oracle.manifest.seed, "insertion", *ids)]
    return {"top": pixel_order(values[None], seeds), "random": random_order(64, seeds)}


def change(oracle: Oracle, row: Row, order: Tensor, fill: float) -> float:
    """How much the query's loss moves by steps on a copy with some pixels filled."""
    at = oracle.train.rows.index(row["train_row"])
    image = oracle.train.x[at].double().flatten().clone()
    count = 64 - round((1 - row["level"]) * 64)
    gone = order[0, count:] if row["test"] == "insertion" else order[0, :count]
    image[gone] = fill
    values = {name: p.detach() for name, p in oracle.model.named_parameters()}
    label = oracle.train.labels[at : at + 1]
    for _ in range(row["steps"]):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = F.cross_entropy(functional_call(oracle.model, leaves, image.view(1, 1, 8, 8)), label)
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        values = {n: v - 0.05 * s for (n, v), s in zip(values.items(), slopes, strict=True)}
    query = oracle.queries.x[row["query"] : row["query"] + 1].double()
    wanted = torch.tensor([query_label(oracle, row["query"])])
    after = F.cross_entropy(functional_call(oracle.model, values, query), wanted)
    return float((after - F.cross_entropy(oracle.model(query), wanted)).detach())


def query_label(oracle: Oracle, query: int) -> int:
    of = oracle.run.table("queries").to_pylist()[query]
    predicted = oracle.manifest.queries.target.endswith("_pred")
    return int(of["predicted"] if predicted else of["label"])


def test_every_row_is_what_its_words_say(whole: Oracle, rows: list[Row]) -> None:
    maps = map_values(whole.run.table("tfa_maps"))
    largest = max(abs(row["top"]) for row in rows)
    assert len(rows) == whole.run.table("tfa_pairs").num_rows * 3 * 2 * 2 * 3
    for row in rows[::7]:
        orders = order_of(whole, row, maps)
        for arm in ("top", "random"):
            found = change(whole, row, orders[arm], 0.0)
            assert row[arm] == pytest.approx(found, abs=1e-5 * largest + 2e-6)


def test_rows_are_those_of_the_library_call(whole: Oracle, rows: list[Row]) -> None:
    """gradattr.influence.step_tests on the pairs of one map, in the run's own precision."""
    maps = map_values(whole.run.table("tfa_maps"))
    some = [r for r in rows if r["map_method"] == "tfa" and r["method"] == "grad_cos"]
    some = [r for r in some if (r["test"], r["steps"], r["level"]) == ("insertion", 1, 0.5)]
    orders = [order_of(whole, row, maps) for row in some]
    at = [whole.train.rows.index(row["train_row"]) for row in some]
    query = [row["query"] for row in some]
    found = step_tests(
        GradientProducts(whole.model.float()),
        whole.train.x[at],
        whole.train.labels[at],
        whole.queries.x[query],
        whole.queries.labels[query],
        {arm: torch.cat([order[arm] for order in orders]) for arm in ("top", "random")},
        levels=[0.5],
        fill=0.0,
        lr=0.05,
    )
    whole.model.double()
    for arm in ("top", "random"):
        wanted = found[arm][:, 0].numpy()
        assert np.allclose([row[arm] for row in some], wanted, atol=1e-6)


def test_with_all_pixels_both_arms_are_the_same_image(rows: list[Row]) -> None:
    full = [row for row in rows if row["level"] == 1.0]
    assert len(full) == len(rows) / 3
    assert all(row["top"] == row["random"] for row in full)
    assert any(row["top"] != row["random"] for row in rows)


def test_the_random_arm_is_the_same_for_every_map_and_score(rows: list[Row]) -> None:
    seen: dict[Any, set[float]] = defaultdict(set)
    for row in rows:
        key = tuple(row[n] for n in ("query", "train_row", "test", "steps", "level"))
        seen[key].add(row["random"])
    assert all(max(values) - min(values) < 1e-6 for values in seen.values())


def test_a_step_on_a_helpful_image_helps_more_with_the_pixels_of_its_map(whole: Oracle) -> None:
    summary = {
        (row["method"], row["side"], row["map_method"]): row
        for row in whole.run.table("tfa_summary").to_pylist()
        if (row["test"], row["steps"], row["level"]) == ("insertion", 1, 0.5)
    }
    assert summary["grad_cos", "helpful", "tfa"]["difference"] < 0
    assert summary["grad_cos", "harmful", "tfa"]["difference"] > 0
    helpful, harmful = (summary["grad_cos", side, "tfa"] for side in ("helpful", "harmful"))
    assert helpful["top"] < 0 < harmful["top"]


def test_the_summary_is_a_t_interval_over_pairs(whole: Oracle, rows: list[Row]) -> None:
    names = ("method", "side", "map_method", "test", "steps", "level")
    cells: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        cells[tuple(row[name] for name in names)].append(row)
    table = whole.run.table("tfa_summary").to_pylist()
    assert len(table) == len(cells) == 2 * 2 * 3 * 2 * 2 * 3
    for cell in table:
        of = cells[tuple(cell[name] for name in names)]
        top, random = (np.array([row[arm] for row in of]) for arm in ("top", "random"))
        differences = top - random
        assert cell["n"] == len(of)
        assert cell["top"] == pytest.approx(top.mean())
        assert cell["random"] == pytest.approx(random.mean())
        assert cell["difference"] == pytest.approx(differences.mean(), abs=1e-12)
        assert cell["sd"] == pytest.approx(differences.std(ddof=1), abs=1e-12)
        if cell["level"] == 1.0:
            assert cell["difference"] == cell["low"] == cell["high"] == cell["sd"] == 0
            continue
        error = differences.std(ddof=1) / len(of) ** 0.5
        low, high = stats.t.interval(0.95, len(of) - 1, differences.mean(), error)
        assert (cell["low"], cell["high"]) == pytest.approx((low, high), rel=1e-9)


def test_only_the_sides_that_are_asked_for(tfa: Any, whole: Oracle) -> None:
    insertion = {**INSERTION, "sides": ["harmful"]}
    other = with_tests(tfa, "one-side", insertion=insertion)
    rows = rows_of(other.run, "tfa_insertion")
    assert {row["side"] for row in rows} == {"harmful"}
    wanted = [row for row in rows_of(whole.run, "tfa_insertion") if row["side"] == "harmful"]
    assert rows == wanted


def test_a_predicted_target_is_tested_by_the_loss_at_that_label(tfa: Any) -> None:
    queries = {"count": 3, "target": "loss_pred", "select": "misclassified"}
    insertion = {**INSERTION, "steps": [1], "tests": ["insertion"]}
    oracle = with_tests(tfa, "pred", queries=queries, insertion=insertion, maps=[PLAIN])
    maps = map_values(oracle.run.table("tfa_maps"))
    rows = rows_of(oracle.run, "tfa_insertion")
    assert not any(oracle.run.table("queries")["correct"].to_pylist())
    for row in rows[::3]:
        orders = order_of(oracle, row, maps)
        found = change(oracle, row, orders["top"], 0.0)
        assert row["top"] == pytest.approx(found, abs=1e-5)
    # What the map is of, a helpful image lowers.
    full = [row for row in rows if (row["level"], row["method"]) == (1.0, "grad_cos")]
    assert full
    assert all((row["top"] < 0) == (row["side"] == "helpful") for row in full)


def test_the_fill_is_the_mean_or_what_is_stated(tfa: Any) -> None:
    insertion = {**INSERTION, "steps": [1], "levels": [0.25], "fill": [0.7]}
    oracle = with_tests(tfa, "filled", insertion=insertion, maps=[PLAIN], preprocess={})
    maps = map_values(oracle.run.table("tfa_maps"))
    for row in rows_of(oracle.run, "tfa_insertion")[::5]:
        found = change(oracle, row, order_of(oracle, row, maps)["top"], 0.7)
        assert row["top"] == pytest.approx(found, abs=1e-5)


def test_steps_that_blow_up_are_told(tfa: Any) -> None:
    insertion = {**INSERTION, "lr": 1e30, "steps": [2]}
    with pytest.raises(ShardError, match=r"after 2 steps of 1e\+30 .* lower insertion.lr"):
        with_tests(tfa, "blown", insertion=insertion, maps=[PLAIN])
