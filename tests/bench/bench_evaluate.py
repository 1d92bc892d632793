"""``gradattr run`` of an evaluation against the same mathematics called directly.

    python tests/bench/bench_evaluate.py                 # about ten minutes
    python tests/bench/bench_evaluate.py --images 64 --repeats 1

Each measurement is a process of its own with one thread; times are process CPU seconds. What a
process costs beyond the images (imports, planning, loading, tuning) is measured with a few images
and taken off both. The direct call has the images in memory and keeps nothing; the run reads them,
writes maps, scores and curves, and adds intervals and paired differences.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_run import child, make_data, make_manifest, make_model

FEW = 8
SUBSETS = 50
METRICS: list[Any] = ["deletion", "insertion", {"metric": "mu_fidelity", "subsets": SUBSETS}]
METHODS: list[Any] = ["saliency", {"name": "integrated_gradients", "steps": 10}]


def direct(data: str, weights: str, images: int) -> None:
    """Maps and metrics of all images by the mathematics alone."""
    from safetensors.torch import load_file

    from gradattr.attribution import attribute, method_request, tune
    from gradattr.attribution.microbatch import choose_forward_batch, choose_micro_batch
    from gradattr.metrics.deletion_insertion import deletion, insertion
    from gradattr.metrics.mu_fidelity import mu_fidelity
    from gradattr.models.cifar_resnet import CifarResNet

    torch.set_num_threads(1)
    model = CifarResNet(3, 3, 10).eval()
    model.load_state_dict(load_file(weights))
    records = np.fromfile(data, np.uint8).reshape(images, -1)[:, 1:].reshape(images, 3, 32, 32)
    mean = torch.tensor([0.49, 0.48, 0.45]).view(3, 1, 1)
    std = torch.tensor([0.25, 0.24, 0.26]).view(3, 1, 1)
    x = (torch.from_numpy(records).float() / 255 - mean) / std
    evaluator = tune(model, x[:2])
    requests = [
        method_request("saliency"),
        method_request("integrated_gradients", steps=10),
    ]
    seeds = range(images)
    batch = choose_micro_batch(evaluator, x[:1])
    made = attribute(evaluator, x, requests, seeds=seeds, batch_size=batch)
    maps, index = [one.maps for one in made], made[0].index
    asked: dict[str, Any] = {"seeds": seeds, "batch_size": choose_forward_batch(evaluator, x[:1])}
    deletion(evaluator, x, maps, index, **asked)
    insertion(evaluator, x, maps, index, **asked)
    mu_fidelity(evaluator, x, maps, index, subsets=SUBSETS, **asked)


def measure(folder: Path, images: int, repeats: int) -> list[str]:
    weights = make_model(folder, "resnet20")
    data, few = make_data(folder, images), make_data(folder, FEW)
    me, run = str(Path(__file__).resolve()), ("-m", "gradattr.cli.main", "run")

    def whole(source: Path, name: str, precision: str) -> float:
        metrics = [
            {"metric": one, "precision": precision}
            if isinstance(one, str)
            else one | {"precision": precision}
            for one in METRICS
        ]
        changes = {"kind": "evaluate", "methods": METHODS, "metrics": metrics}
        return child(*run, str(make_manifest(folder, source, weights, name, **changes)))[0]

    bare, exact, fast = [], [], []
    for _ in range(repeats):
        bare.append(
            child(me, "direct", str(data), str(weights), str(images))[0]
            - child(me, "direct", str(few), str(weights), str(FEW))[0]
        )
        exact.append(whole(data, "exact", "fp32") - whole(few, "few", "fp32"))
        fast.append(whole(data, "fast", "bf16") - whole(few, "fewer", "bf16"))
    times = [1e3 * statistics.median(one) / (images - FEW) for one in (bare, exact, fast)]
    ratio = statistics.median(one / other for one, other in zip(exact, bare, strict=True))
    quick = statistics.median(one / other for one, other in zip(fast, bare, strict=True))
    what = f"deletion, insertion, mu_fidelity ({SUBSETS} subsets) of 2 methods, {images} images"
    return [
        "| what | CPU ms per image | of the direct call's time |",
        "|---|---|---|",
        f"| {what}, ResNet-20: direct call | {times[0]:.1f} | 1 |",
        f"| `gradattr run` | {times[1]:.1f} | **{ratio:.2f}x** |",
        f"| the same with `precision: bf16` | {times[2]:.1f} | {quick:.2f}x |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print("\n".join(measure(Path(name), options.images, options.repeats)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["direct"]:
        direct(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
