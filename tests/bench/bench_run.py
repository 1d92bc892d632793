"""A whole ``gradattr run`` against the bare loop; memory over 50 000 images; 10 000 shards planned.

    python tests/bench/bench_run.py            # about a quarter of an hour
    python tests/bench/bench_run.py --images 2000 --repeats 1

Each measurement is a process of its own with one thread; times are process CPU seconds. What a
run costs beyond the images (imports, planning, loading) is measured with 64 images and taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

BATCH = 64


def make_data(folder: Path, images: int, size: int = 32) -> Path:
    """CIFAR's binary format: random pixels, since neither speed nor memory look at them."""
    path = folder / f"data_{images}.bin"
    random = np.random.default_rng(0)
    records = random.integers(0, 256, (images, 1 + 3 * size * size), dtype=np.uint8)
    records[:, 0] = np.arange(images) % 10
    records.tofile(path)
    return path


def make_model(folder: Path, arch: str) -> Path:
    from pydantic import TypeAdapter

    from gradattr.manifest.model import AnyModel
    from gradattr.models import build_model, save_weights

    spec = TypeAdapter(AnyModel).validate_python({"arch": arch, "weights": "w"})
    model = build_model(spec, shape=(3, 32, 32), num_classes=10, seed=0)
    path = folder / f"{arch}.safetensors"
    path.write_bytes(save_weights(model))
    return path


def make_manifest(folder: Path, data: Path, weights: Path, name: str, **parts: object) -> Path:
    value = {
        "kind": "attribute",
        "name": name,
        "data": {"format": "cifar10", "files": [str(data)]},
        "model": {"arch": weights.stem, "weights": str(weights)},
        "preprocess": {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]},
        "methods": ["gradient"],
        "runtime": {"address": "inline"},
        "store": str(folder / f"store-{name}-{time.monotonic_ns()}"),
    }
    path = folder / f"{name}-{time.monotonic_ns()}.yaml"
    path.write_text(json.dumps(value | parts))
    return path


def child(*arguments: str) -> tuple[float, str]:
    """CPU seconds and output of one process with one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stdout


def bare_loop(data: str, weights: str, images: int) -> None:
    """What a user writes by hand: images in memory, batches, autograd; nothing is kept."""
    from safetensors.torch import load_file

    from gradattr.models.cifar_resnet import CifarResNet

    torch.set_num_threads(1)
    model = CifarResNet(3, 3, 10).eval()
    model.load_state_dict(load_file(weights))
    records = np.fromfile(data, np.uint8).reshape(images, -1)[:, 1:].reshape(images, 3, 32, 32)
    mean = torch.tensor([0.49, 0.48, 0.45]).view(3, 1, 1)
    std = torch.tensor([0.25, 0.24, 0.26]).view(3, 1, 1)
    for first in range(0, images, BATCH):
        x = (torch.from_numpy(records[first : first + BATCH]).float() / 255 - mean) / std
        x.requires_grad_(True)
        logits = model(x)
        top = logits.max(dim=1).values.sum()
        torch.autograd.grad(top, x)


def resident(manifest: str) -> None:
    """Resident MiB of the working process at 10 % steps of its rows."""
    import psutil

    from gradattr.manifest.loading import load_manifest
    from gradattr.runtime.driver import run
    from gradattr.runtime.progress import Event

    process = psutil.Process()
    sizes: list[tuple[int, float]] = []

    def listener(event: Event) -> None:
        if event.kind == "shard":
            sizes.append((event.rows_done, process.memory_info().rss / 2**20))

    run(load_manifest(manifest), listener=listener)
    print(json.dumps(sizes))


def plan(manifest: str) -> None:
    """Seconds to plan."""
    from gradattr.manifest.loading import load_manifest
    from gradattr.work.planning.prepare import make_plan

    loaded = load_manifest(manifest)
    make_plan(loaded.model_copy(update={"shard_rows": 1000}))
    started = time.process_time()
    made = make_plan(loaded)
    print(len(made.stages[-1].tasks), time.process_time() - started)


def whole_runs(folder: Path, images: int, repeats: int) -> list[str]:
    weights = make_model(folder, "resnet20")
    data, few = make_data(folder, images), make_data(folder, BATCH)
    me = str(Path(__file__).resolve())
    bare, whole = [], []
    run = ("-m", "gradattr.cli.main", "run")
    for _ in range(repeats):
        bare.append(
            child(me, "bare", str(data), str(weights), str(images))[0]
            - child(me, "bare", str(few), str(weights), str(BATCH))[0]
        )
        whole.append(
            child(*run, str(make_manifest(folder, data, weights, "whole")))[0]
            - child(*run, str(make_manifest(folder, few, weights, "few")))[0]
        )
    ratio = statistics.median(w / b for w, b in zip(whole, bare, strict=True))
    untuned = [
        child(*run, str(make_manifest(folder, data, weights, "plain", engine={"tune": False})))[0]
        - child(*run, str(make_manifest(folder, few, weights, "fewp", engine={"tune": False})))[0]
    ]
    return [
        f"| whole run, gradient, {images} images 32x32, ResNet-20 | bare loop "
        f"{statistics.median(bare):.1f} s | gradattr {statistics.median(whole):.1f} s | "
        f"**{ratio:.2f}x** the loop's time (target at most 1.10x) |",
        f"| the same with `engine.tune: false` | bare loop {statistics.median(bare):.1f} s | "
        f"gradattr {untuned[0]:.1f} s | {untuned[0] / statistics.median(bare):.2f}x |",
    ]


def memory(folder: Path, images: int) -> str:
    weights = make_model(folder, "cnn")
    manifest = make_manifest(
        folder, make_data(folder, images), weights, "memory", methods=["gradient", "saliency"]
    )
    sizes = json.loads(child(str(Path(__file__).resolve()), "resident", str(manifest))[1])
    early = max(size for rows, size in sizes if rows <= images // 10)
    late = max(size for rows, size in sizes)
    return (
        f"| resident memory of a worker, {images // 10} and {images} images | {early:.0f} MiB | "
        f"{late:.0f} MiB | **{100 * (late / early - 1):+.1f} %** (target within 10 %) |"
    )


def planning(folder: Path) -> str:
    data = make_data(folder, 10_000)
    manifest = make_manifest(folder, data, make_model(folder, "cnn"), "plan", shard_rows=1)
    shards, seconds = child(str(Path(__file__).resolve()), "plan", str(manifest))[1].split()
    return f"| planning {shards} shards | | {float(seconds):.2f} s | target under 10 s |"


def main(images: int, repeats: int) -> list[str]:
    """Rows of the results table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            "| what | reference | gradattr | ratio |",
            "|---|---|---|---|",
            planning(folder),
            *whole_runs(folder, images, repeats),
            memory(folder, 50_000),
        ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        bare_loop(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    elif sys.argv[1:2] == ["resident"]:
        resident(sys.argv[2])
    elif sys.argv[1:2] == ["plan"]:
        plan(sys.argv[2])
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--images", type=int, default=20_000)
        parser.add_argument("--repeats", type=int, default=3)
        options = parser.parse_args()
        print("\n".join(main(options.images, options.repeats)))
