"""The index: what it is, what it finds, and that it answers without a pass over the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.errors import IntegrityError, ShardError, UsageError
from gradattr.influence import (
    CountSketch,
    GradientProducts,
    estimated_cosines,
    estimated_dots,
)
from gradattr.manifest.attribute import AttributeManifest
from gradattr.models import save_weights
from gradattr.runtime.driver import run
from gradattr.work.tfa import lookup, query_set, score_shard
from gradattr.work.tfa.loaded import load_for
from tests.tfa_oracle import Oracle, finished, map_values, rows_of

SCORES = ["grad_cos", "grad_dot"]
INDEX = {"buckets": 64, "candidates": 8, "recall_queries": 3, "recall_top": 5, "seed": 3}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built(tfa: Any) -> Oracle:
    return Oracle(tfa(name="built", keep="full", scores=SCORES, index=INDEX))


def use(tfa: Any, built: Oracle, name: str, **changes: Any) -> Any:
    fixed = {"scores": SCORES, "index_of": f"run:{built.run.run_id}"}
    return tfa(**(fixed | {"name": name} | changes))


def test_sketches_are_those_of_the_training_gradients(built: Oracle) -> None:
    table = built.run.table("sketches").sort_by("train_row").combine_chunks()
    assert table["train_row"].to_pylist() == built.train.rows
    assert table["train_id"].to_pylist() == built.train.sample_ids
    assert table["train_label"].to_pylist() == built.train.labels.tolist()
    train, _ = built.products()
    assert np.allclose(table["norm"], train.norm(dim=1), rtol=1e-5)
    sketch = CountSketch(GradientProducts(built.model), buckets=64, seed=3)
    wanted = sketch.of_examples(built.train.x.double(), built.train.labels).values
    found = np.concatenate([chunk.to_numpy_ndarray() for chunk in table["sketch"].chunks])
    assert found.dtype == np.float16
    assert np.abs(found.astype(np.float64) - wanted.double().numpy()).max() < 2e-3


def test_scores_with_an_index_are_those_without(tfa: Any, built: Oracle) -> None:
    plain = Oracle(tfa(name="plain", keep="full", scores=SCORES, shard_rows=7))
    for method in SCORES:
        ours, theirs = built.scores(method), plain.scores(method)
        assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()


def estimates(built: Oracle) -> dict[str, np.ndarray]:
    """(training rows, queries) from the stored sketches and those of the queries."""
    sketch = CountSketch(GradientProducts(built.model.float()), buckets=64, seed=3)
    queries = sketch.of_examples(built.queries.x, built.queries.labels)
    train = sketch.of_examples(built.train.x, built.train.labels)
    built.model.double()
    return {
        "grad_cos": estimated_cosines(train, queries).numpy(),
        "grad_dot": estimated_dots(train, queries).numpy(),
    }


def test_recall_is_the_share_of_the_exact_answer_that_is_found(built: Oracle) -> None:
    guessed = estimates(built)
    rows = rows_of(built.run, "index_recall")
    assert len(rows) == 3 * 2 * 2
    for row in rows:
        sign = -1 if row["side"] == "helpful" else 1
        exact = np.argsort(sign * built.scores(row["method"])[:, row["query"]], kind="stable")[:5]
        order = np.argsort(sign * guessed[row["method"]][:, row["query"]], kind="stable")
        assert (row["top"], row["candidates"]) == (5, 8)
        assert row["recall"] == len({*exact.tolist()} & {*order[:8].tolist()}) / 5
        assert row["ranked_recall"] == len({*exact.tolist()} & {*order[:5].tolist()}) / 5
    assert 0 < np.mean([row["recall"] for row in rows]) < 1


def test_the_sample_of_queries_does_not_depend_on_blocks(tfa: Any, built: Oracle) -> None:
    other = finished(tfa(name="sampled", scores=SCORES, index=INDEX, query_block=2))
    assert rows_of(other, "index_recall") == rows_of(built.run, "index_recall")


def test_no_recall_is_measured_if_none_is_asked(tfa: Any) -> None:
    index = {**INDEX, "recall_queries": 0}
    found = finished(tfa(name="unmeasured", scores=SCORES, index=index, maps=[]))
    assert "index_recall" not in found.tables
    assert found.table("sketches").num_rows == 60


def test_candidates_that_cover_the_data_give_the_exact_answer(tfa: Any) -> None:
    index = {**INDEX, "candidates": 60}
    full = Oracle(tfa(name="covering", scores=SCORES, index=index, top=40, keep="top:7"))
    found = Oracle(use(tfa, full, "covered", top=40, keep="top:7", query_block=2))
    ours, theirs = rows_of(found.run, "tfa_pairs"), rows_of(full.run, "tfa_pairs")
    assert len(theirs) > 200
    for one, other in zip(ours, theirs, strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-6)
        assert {**one, "score": 0} == {**other, "score": 0}
    for method in SCORES:
        kept, wanted = found.scores(method), full.scores(method)
        assert (np.isnan(kept) == np.isnan(wanted)).all()
        assert np.nanmax(np.abs(kept - wanted)) <= 2e-6 * np.nanmax(np.abs(wanted))
    maps, others = (map_values(of.run.table("tfa_maps")) for of in (found, full))
    assert maps.keys() == others.keys()
    for key, value in others.items():
        assert np.abs(maps[key] - value).max() <= 1e-5 * np.abs(value).max()
    assert "sketches" not in found.run.tables


def test_few_candidates_are_ranked_by_their_exact_scores(tfa: Any, built: Oracle) -> None:
    """Each score ranks the 8 best estimates of either side, and no others."""
    guessed = estimates(built)
    found = Oracle(use(tfa, built, "few-found", top=20))
    assert found.queries.rows == built.queries.rows
    pairs = rows_of(found.run, "tfa_pairs")
    for method in SCORES:
        exact = built.scores(method)
        for query in range(5):
            order = np.argsort(-guessed[method][:, query], kind="stable")
            proposed = {*order[:8].tolist(), *order[-8:].tolist()}
            for side, sign in (("helpful", -1), ("harmful", 1)):
                own = [
                    row
                    for row in pairs
                    if (row["query"], row["method"], row["side"]) == (query, method, side)
                ]
                ranked = sorted(proposed, key=lambda row: sign * exact[row, query])
                wanted = [row for row in ranked if sign * exact[row, query] < 0]
                assert [row["train_row"] for row in own] == wanted


def test_new_queries_with_another_target(tfa: Any, built: Oracle) -> None:
    """An index is of training gradients: what the queries are is free."""
    queries = {
        "data": {"format": "digits", "split": "test"},
        "count": 4,
        "target": "logit_pred",
        "order": "loss",
    }
    model = {"arch": "mlp", "hidden": [12], "weights": f"run:{built.run.run_id}"}
    found = Oracle(use(tfa, built, "other-queries", queries=queries, model=model))
    train, directions = found.products()
    exact = (train @ directions.T).numpy()
    for pair in rows_of(found.run, "tfa_pairs"):
        if pair["method"] == "grad_dot":
            value = exact[pair["train_row"], pair["query"]]
            assert pair["score"] == pytest.approx(value, abs=1e-5 * np.abs(exact).max())


def counted(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The rows of training data that are read from here on."""
    read: set[int] = set()
    honest = query_set.read_shard

    def noting(data: Any, shard: Any, *args: Any, **options: Any) -> Any:
        if data.split == "train":
            read.update(range(shard.start, shard.start + shard.rows))
        return honest(data, shard, *args, **options)

    def refused(*args: Any, **options: Any) -> Any:
        raise AssertionError("a pass over the training data")

    monkeypatch.setattr(query_set, "read_shard", noting)
    monkeypatch.setattr(score_shard, "read_shard", refused)
    return read


def test_only_candidates_are_read(tfa: Any, built: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    guessed = estimates(built)["grad_cos"]
    read = counted(monkeypatch)
    changes = {"scores": ["grad_cos"], "queries": {"count": 1}}
    found = finished(use(tfa, built, "one-query", **changes))
    order = np.argsort(-guessed[:, 0], kind="stable")
    assert read == {*order[:8].tolist(), *order[-8:].tolist()}
    (record,) = [record for record in found.commit.records if record.stage == "lookup"]
    assert record.extra["scored"] == 16


def other_model(manifest: Any) -> dict[str, Any]:
    train = manifest.model.train.model_dump() | {"seed": 1}
    return {"arch": "mlp", "hidden": [12], "train": train}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("data", lambda m: {"data": {"format": "digits", "split": "train", "limit": 59},
                            "model": {"arch": "mlp", "hidden": [12],
                                      "train": m.model.train.model_dump()}}),
        ("model", lambda m: {"model": other_model(m)}),
        ("model", lambda m: {"model": {"arch": "mlp", "hidden": [12],
                                       "train": m.model.train.model_dump() | {"epochs": 4}}}),
        ("parameters", lambda m: {"parameters": ["output.*"]}),
    ],
)  # fmt: skip
def test_an_index_of_something_else_is_refused(
    tfa: Any, built: Oracle, name: str, changes: Callable[[Any], dict[str, Any]]
) -> None:
    with pytest.raises(UsageError, match=f"{built.run.run_id} is of another '{name}'"):
        finished(use(tfa, built, "elsewhere", **changes(built.manifest)))


def test_a_model_that_differs_in_its_test_data_alone(tfa: Any, built: Oracle) -> None:
    """Another recipe, but once it has been followed its weights are seen to be the same."""
    tested = built.manifest.model.train.model_dump() | {
        "test": {"format": "digits", "split": "test", "limit": 30}
    }
    model = {"arch": "mlp", "hidden": [12], "train": tested}
    manifest = use(tfa, built, "retested", model=model, maps=[])
    hint = rf"of another 'model'; .*'weights: run:{built.run.run_id}'"
    with pytest.raises(UsageError, match=hint):
        finished(manifest)
    finished(tfa(name="trainer", model=model, maps=[]))
    assert finished(manifest).pairs().num_rows


def test_an_index_of_other_preprocessing_is_refused(tfa: Any, tmp_path: Path) -> None:
    """With the weights of a file: a trained model is another with another preprocessing."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(save_weights(Oracle(tfa(name="weighty", maps=[])).model.float()))
    model = {"arch": "mlp", "hidden": [12], "weights": str(path)}
    fixed = {"model": model, "scores": SCORES, "maps": []}
    one = Oracle(tfa(name="mean-3", index=INDEX, **fixed))
    with pytest.raises(UsageError, match="is of another 'preprocess'"):
        finished(use(tfa, one, "mean-2", preprocess={"mean": [0.2], "std": [0.4]}, **fixed))
    assert finished(use(tfa, one, "mean-same", **fixed)).pairs().num_rows


def test_a_run_without_an_index_is_refused(tfa: Any) -> None:
    plain = Oracle(tfa(name="indexless", scores=SCORES, maps=[]))
    with pytest.raises(UsageError, match="has built no index; state 'index' there"):
        finished(use(tfa, plain, "wanting"))
    with pytest.raises(UsageError, match=r"nowhere-00000000.* does not exist or is not complete"):
        finished(tfa(name="wanting", scores=SCORES, index_of="run:nowhere-00000000"))


def test_a_run_of_another_kind_is_refused(tfa: Any, built: Oracle) -> None:
    manifest = built.manifest
    other = run(
        AttributeManifest.model_validate(
            {
                "kind": "attribute",
                "name": "no-tfa",
                "data": {"format": "digits", "limit": 5},
                "preprocess": {"mean": [0.3], "std": [0.4]},
                "model": {"arch": "mlp", "hidden": [12], "weights": f"run:{built.run.run_id}"},
                "methods": ["gradient"],
                "runtime": {"address": "inline"},
                "store": manifest.store.model_dump(),
            }
        )
    )
    with pytest.raises(UsageError, match="has built no index"):
        finished(tfa(name="odd", scores=SCORES, index_of=f"run:{other.run_id}"))


@pytest.fixture
def own(tfa: Any, tmp_path: Path) -> Callable[..., Any]:
    """A small index in a store of its own, that may be damaged."""

    def make(**changes: Any) -> Any:
        fixed = {"scores": ["grad_cos"], "maps": [], "queries": {"count": 2}}
        return tfa(**(fixed | {"store": {"url": str(tmp_path / "own")}} | changes))

    return make


def test_a_damaged_index_is_told(own: Any, tmp_path: Path) -> None:
    found = finished(own(name="damaged", index=INDEX))
    folder = tmp_path / "own" / "runs" / found.run_id
    file = next((folder / "data" / "sketches").glob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    with pytest.raises((IntegrityError, ShardError), match=file.name):
        finished(own(name="using", index_of=f"run:{found.run_id}"))


def test_an_index_with_other_weights_is_told(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model was trained anew in between, and came out otherwise."""
    found = finished(own(name="replaced", index=INDEX))
    manifest = own(name="using", index_of=f"run:{found.run_id}")

    def otherwise(context: Any) -> Any:
        loaded = load_for(context)
        loaded.digests["model"] = "0" * 64
        return loaded

    monkeypatch.setattr(lookup, "load_for", otherwise)
    with pytest.raises((IntegrityError, ShardError), match="is not the one that was planned with"):
        finished(manifest)


def test_an_index_that_was_built_again_is_another_input(tfa: Any, built: Oracle) -> None:
    """The run that uses it says of which run the index is."""
    found = finished(use(tfa, built, "naming"))
    assert found.inputs["index"]["run"] == built.run.run_id
    assert found.inputs["index"]["fingerprint"] == built.run.commit.fingerprint
