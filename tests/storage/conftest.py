"""Small runs, written to local and S3 stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.storage.commit import Commit, commit_run
from gradattr.storage.maps import encode_maps
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.run_json import create_run
from gradattr.storage.schemas import make_table, maps_schema
from gradattr.storage.shards import ShardRecord, ShardWriter

METHODS = ("gradient", "saliency")


class SmallRun:
    """A run of ``shards`` x ``rows`` rows with two methods and 1x4x4 maps.

    Row r's confidence is r / 1000 and its maps have mean r (gradient) and -r (saliency).
    """

    def __init__(
        self, shards: int = 3, rows: int = 4, *, choice: str = "float16", seed: int = 0
    ) -> None:
        self.shards, self.rows, self.choice = shards, rows, choice
        total = shards * rows
        fingerprint = f"{seed:064x}"
        self.run_id = f"small-{fingerprint[-8:]}"
        expected = {"predictions": total, "attributions": 2 * total, "maps": 2 * total}
        self.json: dict[str, Any] = {
            "format": "gradattr/run",
            "protocol": 1,
            "run_id": self.run_id,
            "fingerprint": fingerprint,
            "manifest": {"name": "small", "kind": "attribute"},
            "inputs": {},
            "stages": [
                {
                    "name": "attribute",
                    "tables": ["predictions", "attributions", "maps", "errors"],
                    "expected_rows": expected,
                    "shards": [[f"{number:05d}", rows] for number in range(shards)],
                }
            ],
        }

    def write_shard(
        self, store: ObjectStore, number: int, *, jitter: float = 0.0, extra: Any = None
    ) -> ShardRecord:
        """``jitter`` changes values, as another attempt on a GPU might."""
        writer = self.writer(store, number)
        rows = range(number * self.rows, (number + 1) * self.rows)
        base = {"row": list(rows), "sample_id": [f"img-{r}" for r in rows]}
        base["status"] = ["ok"] * self.rows
        confidence = [r / 1000 + jitter for r in rows]
        columns = {**base, "label": [r % 3 for r in rows], "confidence": confidence}
        writer.append("predictions", make_table("predictions", columns))
        for method, sign in zip(METHODS, (1, -1), strict=True):
            keyed = {**base, "method": [method] * self.rows}
            scalars = {"target": ["logit_pred"] * self.rows, "evaluations": [1] * self.rows}
            writer.append("attributions", make_table("attributions", {**keyed, **scalars}))
            maps = np.stack([np.full((1, 4, 4), sign * r, np.float32) for r in rows])
            schema = maps_schema(self.choice, (1, 4, 4))
            columns = {**keyed, **encode_maps(maps, self.choice)}
            writer.append("maps", make_table("maps", columns, schema))
        return writer.finish(self.rows, rows, {"ok": self.rows} if extra is None else extra)

    def writer(self, store: ObjectStore, number: int) -> ShardWriter:
        key = f"{number:05d}"
        return ShardWriter(store, self.run_id, self.json["fingerprint"], "attribute", key)

    def write(self, store: ObjectStore) -> Commit:
        """The whole run, committed."""
        create_run(store, self.json)
        for number in range(self.shards):
            self.write_shard(store, number)
        return commit_run(store, self.json)


@pytest.fixture
def small_run() -> Callable[..., SmallRun]:
    return SmallRun


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "moto", "rclone"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """The same test against each kind of store."""
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    return open_store(request.getfixturevalue(f"s3_{request.param}"))
