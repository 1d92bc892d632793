"""Out of memory in a worker: smaller batches a bounded number of times, then the shard fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.errors import ShardError
from gradattr.report.results import open_run
from gradattr.runtime.driver import run

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("quick_collections")


def _model(fragile: str, **kwargs: Any) -> dict[str, Any]:
    return {"arch": "python", "factory": f"{fragile}:hungry", "kwargs": kwargs, "num_classes": 10}


def _records(folder: Path) -> dict[str, Any]:
    paths = sorted(folder.glob("runs/*/shards/attribute/*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def test_the_batch_is_halved_until_it_fits(make_small: Make, fragile: str, tmp_path: Path) -> None:
    engine = {"batch_size": 32}
    result = run(make_small(model=_model(fragile, largest=4), engine=engine))
    assert open_run(result.uri).rows == 60
    used = {record["extra"]["batch_size"] for record in _records(tmp_path / "store").values()}
    assert used == {4}


def test_a_shard_that_never_fits_says_at_which_batch(
    make_small: Make, fragile: str, marked_file: Path, tmp_path: Path
) -> None:
    changes = {
        "data": {"format": "npz", "file": str(marked_file)},
        "model": _model(fragile, largest=2, only_white=True),
    }
    with pytest.raises(ShardError) as caught:
        run(make_small(**changes, engine={"batch_size": 64}))
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "1 of 4 shards" in text
    assert "attribute/00001: out of memory at batch size 4 (the first try was 64)" in text
    assert sorted(_records(tmp_path / "store")) == ["00000", "00002", "00003"]
    # The batch size is no part of a run's identity: the same run goes on with a smaller one.
    result = run(make_small(**changes, engine={"batch_size": 2}))
    assert open_run(result.uri).rows == 60
    used = {
        key: record["extra"]["batch_size"] for key, record in _records(tmp_path / "store").items()
    }
    assert used == {"00000": 64, "00001": 2, "00002": 64, "00003": 64}
