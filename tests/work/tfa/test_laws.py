"""Laws: nothing that says how the work is cut changes what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tfa_oracle import Oracle, map_values, rows_of

SCORES: list[Any] = [
    "grad_cos",
    "tracin",
    {"score": "influence", "damping": 0.02, "examples": 40},
    {"score": "relatif", "damping": 0.02, "examples": None},
    {"score": "influence", "id": "cg", "inverse": "cg", "damping": 1.0, "tolerance": 1e-6,
     "examples": 30},
]  # fmt: skip
MAPS: list[Any] = [
    {"map": "tfa", "samples": 2},
    {"map": "two_step", "method": "saliency"},
    {"map": "tfa", "id": "conv", "layer": "conv1", "samples": 1, "sigma": 0},
]
INSERTION = {"tests": ["insertion", "deletion"], "levels": [0.25, 1.0], "lr": 0.05}
CNN = {
    "arch": "cnn",
    "width": 2,
    "train": {"epochs": 2, "lr": 0.05, "batch_size": 32, "keep_epochs": [1, 2]},
}
CUTS: list[dict[str, Any]] = [
    {"shard_rows": 7},
    {"shard_rows": 1000, "query_block": 1},
    {"query_block": 2, "map_queries": 1},
    {"query_block": 2, "map_queries": 2, "engine": {"batch_size": 5}},
    {"engine": {"batch_size": 64}, "shard_rows": 31},
]


def cut(tfa: Any, number: int, **changes: Any) -> Oracle:
    fixed = {"keep": "full", "scores": SCORES, "maps": MAPS, "model": CNN, "insertion": INSERTION}
    fixed |= {"data": {"format": "digits", "split": "train", "limit": 40}, "top": 2}
    fixed |= {"queries": {"count": 3}}
    return Oracle(tfa(**(fixed | {"name": f"cut-{number}"} | changes)))


@pytest.fixture(scope="module")
def whole(tfa: Any) -> Oracle:
    return cut(tfa, 99)


def same(found: Oracle, whole: Oracle) -> None:
    """Pairs identical, numbers equal up to rounding."""
    for table, exact in (("queries", 5e-6), ("tfa_pairs", 5e-6), ("tfa_map_scores", 1e-4)):
        compare(rows_of(found.run, table), rows_of(whole.run, table), exact)
    for score in SCORES:
        method = score if isinstance(score, str) else score.get("id", score["score"])
        ours, theirs = found.scores(method), whole.scores(method)
        # Conjugate gradients stop at a residual of 1e-6.
        tolerance = 1e-5 if method == "cg" else 2e-6
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
    for name in ("tfa_maps", "tfa_layer_maps"):
        one, other = (map_values(of.run.table(name)) for of in (found, whole))
        assert one.keys() == other.keys()
        assert len(one) > 50
        for key, value in other.items():
            assert np.abs(one[key] - value).max() <= 1e-5 * np.abs(value).max()
    rows, wanted = rows_of(found.run, "tfa_insertion"), rows_of(whole.run, "tfa_insertion")
    assert len(wanted) > 100
    compare(rows, wanted, 1e-5, absolute=1e-6)
    compare(rows_of(found.run, "tfa_summary"), rows_of(whole.run, "tfa_summary"), 1e-4, 1e-6)


def compare(
    found: list[dict[str, Any]],
    wanted: list[dict[str, Any]],
    relative: float,
    absolute: float = 1e-9,
) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        for name, value in theirs.items():
            if isinstance(value, float):
                # Parts of a sum cancel each other: it is compared with the sum of their sizes.
                slack = 1e-5 * theirs["abs_total"] if name == "total" else absolute
                assert ours[name] == pytest.approx(value, rel=relative, abs=slack), name
            else:
                assert ours[name] == value, name


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_any_cut_gives_the_same_tables(tfa: Any, whole: Oracle, number: int) -> None:
    same(cut(tfa, number, **CUTS[number]), whole)


def test_little_memory_for_query_gradients_takes_more_passes(
    tfa: Any, whole: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    parameters = sum(p.numel() for p in whole.model.parameters())
    # Plain, two checkpoints, three influences: two queries at a time.
    bound = 2 * 4 * parameters * 6
    monkeypatch.setattr("gradattr.work.tfa.query_directions.DIRECTION_BYTES", bound)
    from gradattr.work.tfa import score_shard

    batches = score_shard._batches

    def counted(*args: Any) -> Any:
        nonlocal passes
        passes += 1
        return batches(*args)

    monkeypatch.setattr(score_shard, "_batches", counted)
    same(cut(tfa, 50), whole)
    # 40 rows in two shards, three queries.
    assert passes == 2 * 2


def test_the_run_says_the_same_again(tfa: Any, whole: Oracle, tmp_path: Any) -> None:
    """In another store, from the training on: bit for bit."""
    again = cut(tfa, 99, store={"url": str(tmp_path / "other")})
    assert again.run.run_id == whole.run.run_id
    for table in ("queries", "tfa_pairs", "tfa_map_scores", "tfa_insertion", "tda_scores"):
        assert rows_of(again.run, table) == rows_of(whole.run, table)
