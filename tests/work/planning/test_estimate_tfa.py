"""What a plan says a run of kind tfa costs: numbers that can be counted."""

from __future__ import annotations

from typing import Any

import pytest

from gradattr.work.planning.estimate_tfa import tfa_costs, tfa_evaluations, tfa_size
from gradattr.work.planning.prepare import prepare
from tests.small_tfa import PLAIN, tfa, tfa_store
from tests.tfa_oracle import finished

__all__ = ["tfa", "tfa_store"]

#: Of the small network: 64 x 12 + 12 + 12 x 10 + 10.
PARAMETERS = 910
SCORES: list[Any] = [
    "grad_cos",
    "tracin",
    {"score": "influence", "examples": 20},
    {"score": "relatif", "examples": 20},
    "random",
]


def size_of(manifest: Any) -> dict[str, Any]:
    return tfa_size(prepare(manifest).context)


def test_the_numbers_of_a_plan(tfa: Any) -> None:
    maps = [PLAIN, {"map": "tfa", "id": "smooth", "samples": 7}, {"map": "two_step",
            "method": {"name": "integrated_gradients", "steps": 9}}]  # fmt: skip
    manifest = tfa(scores=SCORES, maps=maps, keep="top:4", index={"buckets": 32})
    size = size_of(manifest)
    assert size["training_examples"] == 60
    assert size["queries"] == 5
    assert size["scores"] == 60 * 5 * 5
    assert size["score_bytes"] == 5 * 5 * 8 * 16
    assert size["pairs"] == 5 * 5 * 6
    assert size["maps"] == 3 * 150
    assert size["map_bytes"] == 150 * 3 * 4 * 64
    assert size["index_bytes"] == 60 * 32 * 2
    assert size["query_gradient_bytes"] == 4 * PARAMETERS
    # Two kept epochs, one pass for all products, one for RelatIF's norms.
    assert size["passes"] == 2 + 1 + 1
    evaluations = tfa_evaluations(prepare(manifest).context)
    assert evaluations["predict"] == 40
    assert evaluations["tda"] == 60 * 4
    assert evaluations["map"] == 150 * (1 + 7 + 9)


@pytest.mark.parametrize(
    ("keep", "rows"), [("full", 60), ("none", 0), ("top:4", 8), ("top:100", 60), ("above:0.5", 60)]
)
def test_bytes_of_scores(tfa: Any, keep: str, rows: int) -> None:
    manifest = tfa(keep=keep)
    assert size_of(manifest)["score_bytes"] == rows * 5 * 16
    found = finished(manifest)
    written = found.table("tda_scores").num_rows if "tda_scores" in found.tables else 0
    assert written <= rows * 5
    assert written == rows * 5 or keep.startswith("above")


@pytest.mark.parametrize(("top", "pairs"), [(3, 30), (100, 600)])
def test_pairs_at_most(tfa: Any, top: int, pairs: int) -> None:
    manifest = tfa(top=top)
    assert size_of(manifest)["pairs"] == pairs
    assert finished(manifest).table("tfa_pairs").num_rows <= pairs


def test_bytes_of_layer_maps(tfa: Any) -> None:
    deep = {**PLAIN, "id": "deep", "layer": "conv1"}
    model = {"arch": "cnn", "width": 2, "train": {"epochs": 2, "lr": 0.05, "batch_size": 32}}
    size = size_of(tfa(model=model, maps=[PLAIN, deep], store={"maps": "float16"}))
    assert size["map_bytes"] == 30 * 2 * (2 * 64 + 4)
    assert size_of(tfa(maps=[]))["map_bytes"] == 0


@pytest.mark.parametrize(("at_once", "groups"), [(1, 5), (2, 3), (3, 2), (9, 2)])
def test_passes_follow_what_is_in_memory_at_once(
    tfa: Any, monkeypatch: pytest.MonkeyPatch, at_once: int, groups: int
) -> None:
    """Blocks of 3 and 2 queries; plain gradients, two checkpoints, one influence of each."""
    scores = ["grad_dot", "tracin", {"score": "influence", "examples": 20}]
    bound = at_once * 4 * PARAMETERS * 4
    for module in ("planning.estimate_tfa", "tfa.query_directions"):
        monkeypatch.setattr(f"gradattr.work.{module}.DIRECTION_BYTES", bound)
    manifest = tfa(name=f"at-once-{at_once}", scores=scores, query_block=3, maps=[])
    # Each group of queries: two checkpoints, and the model itself.
    assert size_of(manifest)["passes"] == groups * 3
    from gradattr.work.tfa import score_shard

    counted = 0
    batches = score_shard._batches

    def counting(*args: Any) -> Any:
        nonlocal counted
        counted += 1
        return batches(*args)

    monkeypatch.setattr(score_shard, "_batches", counting)
    finished(manifest)
    assert counted == groups * 3  # three shards


def test_random_scores_alone_cost_no_pass(tfa: Any) -> None:
    assert size_of(tfa(scores=["random"]))["passes"] == 0
    assert size_of(tfa(scores=["tracin"]))["passes"] == 2
    assert size_of(tfa(scores=["tracin", "random"]))["passes"] == 2


def test_an_index_costs_no_pass(tfa: Any) -> None:
    """Sketches take one; who uses them reads candidates alone."""
    built = finished(tfa(name="costs", index={"candidates": 4}, maps=[]))
    size = size_of(tfa(name="using", index_of=f"run:{built.run_id}", keep="top:2", maps=[]))
    assert size["passes"] == 0
    evaluations = tfa_evaluations(
        prepare(tfa(name="using", index_of=f"run:{built.run_id}", maps=[])).context
    )
    assert evaluations["lookup"] == 5 * 2 * 4
    assert "tda" not in evaluations


def test_every_large_stage_has_a_price(tfa: Any) -> None:
    context = prepare(tfa(maps=[{"map": "tfa", "samples": 3}])).context
    costs = tfa_costs(context)
    stages = {stage.name: stage for stage in prepare(tfa()).plan.stages}
    for name in ("predict", "tda", "map"):
        task = stages[name].tasks[0]
        assert costs[name](task) > 0
