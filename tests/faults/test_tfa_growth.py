"""A training set ten times as large takes ten times as long, and no more memory: nothing that grows
with it is kept but counts, while it is scored, merged, and looked up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

#: 1.2 MB of sketches at first, then 12; the matrix of scores is half of that.
ROWS, BUCKETS, QUERIES = 300, 2_048, 500
#: Allocators that give back what they do not need.
QUIET = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
}
#: What may come on top: caches that fill up, allocators.
LEEWAY = 7 * 2**20

SCRIPT = '''
import ctypes, gc, json, re, sys
import numpy as np, torch
from pathlib import Path
from gradattr.manifest.tfa import TfaManifest
from gradattr.models import build_model, save_weights
from gradattr.runtime.driver import run
from gradattr.work.tfa import merge

torch.set_num_threads(1)
folder, rows, buckets, queries = Path(sys.argv[1]), *map(int, sys.argv[2:])
#: Of a large run the merge is many times this.
merge._MERGE_AT = 40_000

def status(name):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", text).group(1))

def grown(manifest):
    """Peak of the memory while a run is carried out, above what was taken before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = run(TfaManifest.model_validate(manifest))
    return result.run_id, status("VmHWM") - before

value = {
    "kind": "tfa",
    "name": "warm",
    "preprocess": {"mean": [0.3], "std": [0.4]},
    "data": {"format": "npz", "file": str(folder / "train.npz")},
    "queries": {"data": {"format": "digits", "limit": queries}, "count": queries},
    "model": {"arch": "mlp", "hidden": [8], "weights": str(folder / "weights.safetensors")},
    "index": {"buckets": buckets, "candidates": 5, "recall_queries": 2, "recall_top": 5},
    "keep": "top:5",
    "top": 2,
    "maps": [],
    "shard_rows": 100,
    "query_block": 1000,
    "runtime": {"address": "inline"},
    "store": {"url": str(folder / "store")},
}
rng = np.random.default_rng(0)
images = rng.random((rows, 8, 8), dtype=np.float32)
np.savez(folder / "train.npz", images=images, labels=np.arange(rows) % 10)
del images
model = TfaManifest.model_validate(value).model
module = build_model(model, shape=(1, 8, 8), num_classes=10, seed=1)
Path(model.weights).write_bytes(save_weights(module))
# What only the first run takes: libraries, thread pools.
warm = value | {"data": {"format": "digits", "limit": 200}}
run(TfaManifest.model_validate(warm))
run_id, built = grown(value | {"name": "index"})
_, asked = grown(value | {"name": "asks", "index": None, "index_of": "run:" + run_id})
print(json.dumps({"built": built, "asked": asked}))
'''


def _peaks(folder: Path, rows: int) -> dict[str, int]:
    folder.mkdir()
    numbers = [str(number) for number in (rows, BUCKETS, QUERIES)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *numbers],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | QUIET,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_memory_does_not_grow_with_the_training_set(tmp_path: Path) -> None:
    # Each in a process of its own, and so both at once.
    with ThreadPoolExecutor(2) as pool:
        large, small = pool.map(_peaks, (tmp_path / "large", tmp_path / "small"), (10 * ROWS, ROWS))
    for stage in ("built", "asked"):
        assert large[stage] < small[stage] + LEEWAY, (small, large)
