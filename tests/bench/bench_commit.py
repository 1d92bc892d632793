"""Seconds and memory that a commit of many shards takes: one row, two tables and maps in each.

.venv/bin/python tests/bench/bench_commit.py [SHARDS]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gradattr.storage.commit import commit_run, missing_shards, read_commit
from gradattr.storage.maps import encode_maps
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.storage.run_json import create_run
from gradattr.storage.schemas import make_table, maps_schema
from gradattr.storage.shards import ShardWriter

SHAPE = (1, 8, 8)


def plan(shards: int) -> dict[str, Any]:
    """``run.json`` of a run with one row per shard."""
    tables = ("predictions", "attributions", "maps")
    stage = {
        "name": "attribute",
        "tables": [*tables, "errors"],
        "expected_rows": dict.fromkeys(tables, shards),
        "shards": [[f"{number:05d}", 1] for number in range(shards)],
    }
    return {
        "format": "gradattr/run",
        "protocol": 1,
        "run_id": "bench-00000000",
        "fingerprint": "0" * 64,
        "manifest": {"name": "bench", "kind": "attribute"},
        "inputs": {},
        "stages": [stage],
    }


def write_shard(store: ObjectStore, run_json: dict[str, Any], number: int) -> None:
    run_id, fingerprint = run_json["run_id"], run_json["fingerprint"]
    writer = ShardWriter(store, run_id, fingerprint, "attribute", f"{number:05d}")
    base = {"row": [number], "sample_id": [f"image-{number}"], "status": ["ok"]}
    writer.append("predictions", make_table("predictions", {**base, "confidence": [0.5]}))
    keyed = {**base, "method": ["saliency"]}
    scalars = {"target": ["logit_pred"], "evaluations": [1]}
    writer.append("attributions", make_table("attributions", {**keyed, **scalars}))
    maps = encode_maps(np.full((1, *SHAPE), number, np.float32), "float16", SHAPE)
    schema = maps_schema("float16", SHAPE)
    writer.append("maps", make_table("maps", {**keyed, **maps}, schema))
    writer.finish(1, range(number, number + 1), {"rows": 1, "bad_rows": 0})


def resident() -> float:
    """MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(shards: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-commit-") as folder:
        store, run_json = open_store(folder), plan(shards)
        create_run(store, run_json)
        start = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: write_shard(store, run_json, number), range(shards)))
        print(f"{shards} shards written in {time.perf_counter() - start:.1f} s")
        before, start = resident(), time.perf_counter()
        assert missing_shards(store, run_json) == []
        print(f"what a resuming driver asks first: {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        commit_run(store, run_json)
        seconds = time.perf_counter() - start
        print(f"commit: {seconds:.1f} s, {before:.0f} MiB before, peak {peak():.0f} MiB")
        start = time.perf_counter()
        commit = read_commit(store, run_json["run_id"])
        size = (Path(folder) / "runs" / run_json["run_id"] / "_COMMIT.json").stat().st_size
        print(
            f"commit record: {size / 2**20:.1f} MiB, read in {time.perf_counter() - start:.1f} s, "
            f"{len(commit.records)} shards"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
