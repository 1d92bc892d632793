"""An index that is deleted, damaged or replaced between the plan of a run and its look-up: told by
name, mended as it is told, never used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import IntegrityError, ShardError
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.storage.commit import COMMIT_FORMAT
from gradattr.storage.sealed import seal, unseal
from tests.disturbed import LOOKUP, finished, flip, forget, same, when

Make = Callable[..., Any]


def _index(manifest: Any) -> Path:
    run_id = str(manifest.index_of).removeprefix("run:")
    return Path(manifest.store.url) / "runs" / run_id


def _spoiled(manifest: Any, spoil: Callable[[Path], Any]) -> str:
    """What the run says if its index is spoiled as it begins to look up."""

    def act() -> None:
        spoil(_index(manifest))
        forget()

    with pytest.raises(ShardError) as caught:
        run(manifest, listener=when("lookup", act))
    assert caught.value.exit_code == 3
    assert "2 of 2 shards of stage lookup failed" in str(caught.value)
    return str(caught.value)


def _first_sketches(index: Path) -> Path:
    return sorted((index / "data" / "sketches").iterdir())[0]


def test_an_index_that_is_deleted(asks: Any, undisturbed_answer: Run, tmp_path: Path) -> None:
    text = _spoiled(asks, lambda index: shutil.move(index, tmp_path / "away"))
    assert _index(asks).name in text
    assert "does not exist or is not complete" in text
    shutil.move(tmp_path / "away", _index(asks))
    same(finished(asks), undisturbed_answer)


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["altered", "deleted"])
def test_an_index_that_is_damaged_is_mended_as_it_is_told(
    asks: Any, everything: Make, undisturbed_answer: Run, damage: Callable[[Path], None]
) -> None:
    victim = _first_sketches(_index(asks))
    text = _spoiled(asks, lambda index: damage(_first_sketches(index)))
    commit = _index(asks) / "_COMMIT.json"
    assert f"index_of: the index of run {_index(asks).name} is damaged: {victim}: is " in text
    assert f"Delete that file and {commit}, run the manifest of that run again" in text
    assert "compute its shard anew" not in text
    victim.unlink(missing_ok=True)
    commit.unlink()
    assert finished(everything()).run_id == _index(asks).name
    same(finished(asks), undisturbed_answer)


def test_an_index_whose_commit_is_cut(asks: Any, undisturbed_answer: Run) -> None:
    commit = _index(asks) / "_COMMIT.json"
    whole = commit.read_bytes()
    text = _spoiled(asks, lambda _index: commit.write_bytes(whole[:-100]))
    assert str(commit) in text
    with pytest.raises(IntegrityError, match=r"_COMMIT\.json"):
        finished(asks)
    commit.write_bytes(whole)
    same(finished(asks), undisturbed_answer)


def _of_other_weights(commit: dict[str, Any]) -> None:
    for record in commit["shards"]:
        if "sketches" in record["tables"]:
            record["extra"]["models"]["model"] = "0" * 64


def _of_another_plan(commit: dict[str, Any]) -> None:
    commit["fingerprint"] = "0" * 64


@pytest.mark.parametrize("edit", [_of_other_weights, _of_another_plan])
def test_an_index_that_is_replaced_is_not_used(
    asks: Any, undisturbed_answer: Run, edit: Callable[[dict[str, Any]], None]
) -> None:
    """A training is not the same on every GPU: a run of this name may have another model."""
    path = _index(asks) / "_COMMIT.json"
    whole = path.read_bytes()

    def replace(_index: Path) -> None:
        value = {k: v for k, v in unseal(whole, COMMIT_FORMAT).items() if k != "digest"}
        edit(value)
        path.write_bytes(seal(value))

    text = _spoiled(asks, replace)
    assert "is not the one that was planned with, or its index was built with other weights" in text
    path.write_bytes(whole)
    same(finished(asks), undisturbed_answer)


def test_what_was_looked_up_is_kept_when_the_index_goes_away(
    asks: Any, undisturbed_answer: Run
) -> None:
    """Pairs and maps need the training data, not the index; but a plan looks at it."""
    run(asks, listener=when("pair", lambda: shutil.rmtree(_index(asks) / "data" / "sketches")))
    same(finished(asks), undisturbed_answer)


def test_an_index_answers_as_the_whole_training_set_does(
    undisturbed_answer: Run, everything: Make
) -> None:
    """With as many candidates as there are images the look-up is exact."""
    wide = everything(index={"buckets": 64, "candidates": 60, "recall_queries": 0}, name="wide")
    found = finished(everything(**LOOKUP, index_of=f"run:{finished(wide).run_id}"))
    exact = finished(everything(**LOOKUP | {"name": "exact"}))
    named = ["query", "train_row", "method", "side", "rank"]
    assert found.table("tfa_pairs").select(named).equals(exact.table("tfa_pairs").select(named))
    assert len(undisturbed_answer.table("tfa_pairs")) > 0
