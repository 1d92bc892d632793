"""Whole runs of kind patching: the tables against the mathematics, and whatever may differ between
two runs of the same manifest."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gradattr.errors import CheckError, DataError, Interrupted, ModelError, UsageError
from gradattr.manifest.starts import start_id
from gradattr.models.language_models import load_language_model
from gradattr.patching import (
    PromptBatch,
    activation_patching,
    attribution_patching,
    faithfulness,
    language_model,
)
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run
from gradattr.seeds import sample_seeds
from gradattr.storage.objects import open_store
from gradattr.storage.verify import verify_run
from gradattr.work.patching import loaded
from gradattr.work.patching.loaded import start_of
from gradattr.work.planning.prepare import make_plan
from tests.disturbed import when
from tests.small_language import (
    MakePatching,
    adder,
    make_patching,
    prompt,
    rows,
    write_rows,
)

__all__ = ["adder", "make_patching"]

EVERYTHING: dict[str, Any] = {
    "baselines": [
        "uni",
        "zero",
        "random",
        {"baseline": "random", "id": "again"},
        {"baseline": "random", "id": "sphere", "at": "sphere"},
        "noise",
        "mean",
        "corrupted",
    ],
    "methods": ["attribution_patching", "integrated_patching", "activation_patching"],
    "integration": {"steps": 4, "rule": "midpoint"},
    "score": "logit_difference",
}
TABLES = ("prompts", "patching", "patching_baselines", "patching_agreement", "faithfulness")
KEYS = ("row", "baseline", "method", "measure", "site", "position")


def ordered(found: Run, name: str) -> pa.Table:
    table = found.table(name)
    keys = [key for key in KEYS if key in table.column_names]
    return table.sort_by([(key, "ascending") for key in keys])


def assert_close(one: Run, two: Run) -> None:
    for name in TABLES:
        a, b = ordered(one, name), ordered(two, name)
        assert a.num_rows == b.num_rows
        assert a.schema.names == b.schema.names
        for column in a.column_names:
            x, y = a[column], b[column]
            if pa.types.is_floating(x.type):
                x, y = (np.asarray(v.to_pandas(), dtype=float) for v in (x, y))
                # Ranks of effects that are rounding errors of 0 may change places.
                bound = 0.05 if name in ("patching_agreement", "faithfulness") else 1e-5
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=bound, err_msg=f"{name}.{column}")
            else:
                assert x.equals(y), f"{name}.{column}"


@pytest.fixture(scope="module")
def everything(adder, tmp_path_factory) -> Run:
    """A run with every baseline, method and table."""
    folder = tmp_path_factory.mktemp("everything")
    manifest = make_patching.__wrapped__(folder, adder)(**EVERYTHING)
    return open_run(run(manifest).uri)


def test_the_tables_are_the_mathematics(everything: Run, make_patching: MakePatching) -> None:
    """Prompt by prompt, in another order of everything."""
    manifest = make_patching(**EVERYTHING)
    network, tokenizer = load_language_model(manifest.model)
    model = language_model(network)
    effects = ordered(everything, "patching").to_pandas()
    agreement = ordered(everything, "patching_agreement").to_pandas()
    told = everything.table("prompts").to_pylist()
    assert [row["sample_id"] for row in told] == [f"sum-{i}" for i in range(8)]
    for i in (0, 7):
        given = rows()[i]
        ids = tokenizer(given["prompt"])["input_ids"]
        answer, foil, corrupted = (
            tokenizer(given[name])["input_ids"] for name in ("answer", "foil", "corrupted")
        )
        assert told[i]["tokens"] == given["prompt"].split()
        assert (told[i]["answer"], told[i]["foil"]) == (given["answer"], given["foil"])
        assert told[i]["predicted"] == given["answer"]
        for spec in manifest.baselines:
            seeds = sample_seeds(0, f"start {start_id(spec)}", [given["name"]])
            batch = PromptBatch.of(model, [ids], answer, seeds, foil=foil, corrupted=[corrupted])
            start = start_of(spec).draw(model, batch)
            exact = activation_patching(model, batch, start, score="logit_difference")
            estimate = attribution_patching(model, batch, start, score="logit_difference")
            own = effects[(effects.row == i) & (effects.baseline == start_id(spec))]
            for method, expected in (
                ("activation_patching", exact),
                ("attribution_patching", estimate),
            ):
                found = own[own.method == method].effect.to_numpy().reshape(3, len(ids))
                np.testing.assert_allclose(found, expected[0], rtol=1e-3, atol=1e-4)
            compared = faithfulness(estimate, exact, batch.real)
            line = agreement[
                (agreement.row == i)
                & (agreement.baseline == start_id(spec))
                & (agreement.method == "attribution_patching")
            ]
            assert line.l2.item() == pytest.approx(float(compared.l2), rel=1e-2, abs=1e-4)


def test_the_summary_is_the_mean_over_prompts(everything: Run) -> None:
    rows_of = everything.sql(
        "SELECT f.baseline, f.n, f.mean, f.low, f.high, avg(a.l2) AS again, count(*) AS c "
        "FROM faithfulness f JOIN patching_agreement a USING (baseline, method) "
        "WHERE f.measure = 'l2' GROUP BY ALL"
    ).to_pylist()
    assert len(rows_of) == 16
    for row in rows_of:
        assert row["n"] == row["c"] == 8
        assert row["mean"] == pytest.approx(row["again"])
        assert row["low"] < row["mean"] < row["high"]


def test_what_the_baselines_do(everything: Run) -> None:
    found = {
        row["baseline"]: row
        for row in everything.sql(
            "SELECT baseline, avg(confidence) AS at_x, avg(baseline_confidence) AS at_start, "
            "min(distance) AS nearest, max(distance) AS furthest FROM patching_baselines GROUP BY 1"
        ).to_pylist()
    }
    uni, sphere = found["uni"], found["sphere"]
    assert uni["at_x"] > 0.95
    # The same distance: UNI's direction is what unlearns.
    for row in (uni, sphere):
        assert row["nearest"] == pytest.approx(0.25, abs=1e-4)
        assert row["furthest"] == pytest.approx(0.25, abs=1e-4)
    assert uni["at_start"] < uni["at_x"] - 0.1
    assert sphere["at_start"] > sphere["at_x"] - 0.01
    two = everything.sql(
        "SELECT a.distance <> b.distance AS differ FROM patching_baselines a JOIN "
        "patching_baselines b USING (row) WHERE a.baseline = 'random' AND b.baseline = 'again'"
    ).to_pylist()
    assert all(row["differ"] for row in two)


def test_shards_and_batches_do_not_matter(
    everything: Run, make_patching: MakePatching, tmp_path
) -> None:
    other = make_patching(
        **EVERYTHING, shard_rows=100, engine={"batch_size": 3}, store={"url": str(tmp_path / "o")}
    )
    assert_close(open_run(run(other).uri), everything)


def test_stopped_and_resumed_it_is_the_same_bit_for_bit(
    everything: Run, make_patching: MakePatching, tmp_path
) -> None:
    """Stopped by a signal after its first shard; then a shard's record is lost, as if its worker
    had died before it was written."""
    manifest = make_patching(**EVERYTHING)
    stop = when("patch", lambda: os.kill(os.getpid(), signal.SIGTERM), "shard")
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(manifest, listener=stop)
    (record,) = (tmp_path / "store").glob("runs/*/shards/patch/*.json")
    for _ in range(2):
        loaded._cache.clear()
        result = run(manifest)
        found = open_run(result.uri)
        for name in TABLES:
            assert found.table(name).equals(everything.table(name)), name
        assert verify_run(open_store(manifest.store), result.run_id).ok
        assert run(manifest).already_complete
        record.unlink()
        (record.parents[2] / "_COMMIT.json").unlink()


def bad_rows() -> list[Any]:
    good = rows(3)
    return [
        good[0],
        {**good[1], "prompt": ""},
        {**good[1], "name": "long", "prompt": " ".join(["plus"] * 17)},
        {**good[1], "name": "two", "answer": "3 3"},
        {**good[1], "name": "unknown", "answer": "seven"},
        {**good[1], "name": "no-foil", "foil": None},
        {**good[1], "name": "number", "prompt": 5},
        {**good[1], "name": "shorter", "corrupted": "2 plus 2"},
        {**good[2], "name": "predicted", "answer": None},
        {**good[2], "name": "whole"},
    ]


def test_bad_prompts_are_rows_with_reasons(make_patching: MakePatching, tmp_path) -> None:
    write_rows(tmp_path / "sums.jsonl", bad_rows())
    changes = {"baselines": ["zero", "corrupted"], "score": "logit_difference"}
    with pytest.raises(CheckError, match=r"7 of 10 rows are bad \(2 answer_error, 1 decode_error"):
        run(make_patching(**changes))
    found = open_run(run(make_patching(**changes, errors={"max": 0.8})).uri)
    told = {row["sample_id"]: row for row in found.table("prompts").to_pylist()}
    assert {name: row["status"] for name, row in told.items()} == {
        "sum-0": "ok",
        "sum-1": "empty",
        "long": "too_long",
        "two": "answer_error",
        "unknown": "answer_error",
        "no-foil": "foil_error",
        "number": "decode_error",
        "shorter": "ok",
        "predicted": "ok",
        "whole": "ok",
    }
    assert "17 tokens, 16 are allowed by the model's context" in told["long"]["error"]
    assert "'3 3' is 2 tokens ('3' '3'), expected one" in told["two"]["error"]
    assert "'seven' is not in the model's vocabulary" in told["unknown"]["error"]
    assert told["predicted"]["answer"] == told["predicted"]["predicted"]
    starts = found.sql(
        "SELECT sample_id, baseline, status, error FROM patching_baselines "
        "WHERE sample_id = 'shorter' ORDER BY baseline"
    ).to_pylist()
    assert [row["status"] for row in starts] == ["length_error", "ok"]
    assert "has 3 tokens, the prompt 7" in starts[0]["error"]
    counts = found.sql("SELECT measure, max(n) AS n FROM faithfulness GROUP BY 1").to_pylist()
    assert {row["n"] for row in counts} == {4}
    assert found.table("patching_agreement").num_rows == 20
    assert found.table("errors").num_rows == 7


def test_a_certain_answer_has_nothing_to_unlearn(make_patching: MakePatching, monkeypatch) -> None:
    """Logits so large that the loss has no gradient: no effects are made up."""
    load = loaded.language_model

    def certain(network, blocks):
        model = load(network, blocks)
        read = model.read
        model.read = lambda *given: 1e6 * read(*given)
        return model

    monkeypatch.setattr(loaded, "language_model", certain)
    loaded._cache.clear()
    found = open_run(run(make_patching(baselines=["uni", "zero"])).uri)
    loaded._cache.clear()
    statuses = found.sql(
        "SELECT baseline, status, count(*) AS n FROM patching_baselines GROUP BY ALL"
    ).to_pylist()
    assert {(row["baseline"], row["status"]): row["n"] for row in statuses} == {
        ("uni", "degenerate"): 8,
        ("zero", "ok"): 8,
    }
    assert {row["baseline"] for row in found.table("patching").to_pylist()} == {"zero"}


def test_one_method_alone_has_nothing_to_compare(make_patching: MakePatching) -> None:
    manifest = make_patching(
        methods=["attribution_patching"], sites=[1, 2], baselines=["mean"], answer="predicted"
    )
    plan = make_plan(manifest)
    assert [stage.name for stage in plan.stages] == ["patch"]
    found = open_run(run(manifest).uri)
    assert "faithfulness" not in found.tables
    sites = found.sql("SELECT DISTINCT site FROM patching ORDER BY 1").to_pylist()
    assert [row["site"] for row in sites] == [1, 2]


def test_what_a_plan_depends_on(make_patching: MakePatching, adder, tmp_path) -> None:
    first = make_plan(make_patching())
    assert make_plan(make_patching(runtime={"address": "local"})).run_id == first.run_id
    assert make_plan(make_patching(shard_rows=6)).run_id != first.run_id
    assert make_plan(make_patching(seed=1)).run_id != first.run_id
    with (tmp_path / "sums.jsonl").open("a") as file:
        file.write(json.dumps({**rows(1)[0], "name": "one more"}) + "\n")
    assert make_plan(make_patching()).run_id != first.run_id
    assert first.inputs["models"] == make_plan(make_patching()).inputs["models"]


def test_mistakes_before_anything_is_written(make_patching: MakePatching, tmp_path) -> None:
    for changes, error, text in (
        ({"sites": [0, 9]}, UsageError, r"sites: \[0, 9\] given, but the model has sites 0"),
        ({"model": {"path": str(tmp_path / "none")}}, ModelError, "no such folder"),
        ({"data": {"file": str(tmp_path / "none.txt")}}, DataError, "no such file"),
    ):
        with pytest.raises(error, match=text):
            run(make_patching(**changes))
    write_rows(tmp_path / "sums.jsonl", [{**rows(1)[0], "answer": "x y"}])
    with pytest.raises(UsageError, match=r"none of the first 1 prompts can be used.*answer_error"):
        run(make_patching())
    assert not (tmp_path / "store").exists()


def test_prompts_that_change_under_way(make_patching: MakePatching, tmp_path) -> None:
    from gradattr.plan import Task
    from gradattr.work.patching.shard import patch_shard
    from gradattr.work.planning.prepare import prepare

    prepared = prepare(make_patching())
    write_rows(tmp_path / "sums.jsonl", rows(11))
    task: Task = prepared.plan.stages[0].tasks[0]
    with pytest.raises(DataError, match="changed since the plan"):
        patch_shard(prepared.context, task)


def test_long_prompts_do_not_change_short_ones(make_patching: MakePatching, tmp_path) -> None:
    """A run with one prompt alone has the numbers that it has among others."""
    changes = {"baselines": ["uni", "random"]}
    many = open_run(run(make_patching(**changes)).uri)
    write_rows(tmp_path / "sums.jsonl", rows()[:1])
    alone = open_run(run(make_patching(**changes)).uri)
    found = ordered(alone, "patching")["effect"].to_numpy()
    among = ordered(many, "patching").to_pandas()
    np.testing.assert_allclose(found, among[among.row == 0].effect, rtol=1e-4, atol=1e-6)
    assert len(found) == 2 * 2 * 3 * len(prompt(0, 0, 1).split())
