"""Theorem 1 of the DiffROAR paper, measured: run its three manifests, compare with what it found.

    python -m jobs.check_theory
    python -m jobs.check_theory store.url=s3://audits/theory     # overrides, as of gradattr run

For each model, the mean magnitude of the gradient (each image's largest block is 1) on the block
that holds the image's signal, on the other blocks that may hold one, and on the noise blocks.
Exit code 1 if a number is off by more than 0.05.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gradattr.cli.output import print_table
from gradattr.data import index_data, load_all
from gradattr.errors import GradattrError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.data import Preprocess
from gradattr.metrics.theory import BlockMagnitudes, block_magnitudes
from gradattr.report.results import open_run
from gradattr.runtime.driver import run
from gradattr.work.manifests import load_manifest

MANIFESTS = Path("manifests")
TOLERANCE = 0.05

#: Signal block, other task blocks, noise blocks (Shah et al. 2021; d = 10, m = 1, eta = 0).
PUBLISHED = {
    "theory_linear": BlockMagnitudes(0.93, 0.93, 0.05),
    "theory_mlp": BlockMagnitudes(0.87, 0.98, 0.03),
    "theory_robust": BlockMagnitudes(1.00, 0.015, 0.007),
}


def measure(path: Path, overrides: Sequence[str]) -> BlockMagnitudes:
    """Run a manifest (or open its run, if it is complete) and measure its maps."""
    manifest = load_manifest(path, overrides=overrides)
    assert isinstance(manifest, AttributeManifest)
    done = open_run(run(manifest).uri)
    batch = load_all(manifest.data, index_data(manifest.data), Preprocess())
    assert batch.masks is not None
    maps = np.stack([done.map(sample_id, "saliency") for sample_id in batch.sample_ids])
    signal = (~batch.masks[:, :, 0]).int().argmax(1)
    return block_magnitudes(torch.from_numpy(maps), signal)


def main(*overrides: str) -> int:
    rows: list[list[str]] = []
    off: list[str] = []
    for name, published in PUBLISHED.items():
        found = measure(MANIFESTS / f"{name}.yaml", overrides)
        for role, ours, theirs in zip(found._fields, found, published, strict=True):
            difference = abs(ours - theirs)
            rows.append([name, role, f"{ours:.3f}", f"{theirs:.3f}", f"{difference:.3f}"])
            if difference > TOLERANCE:
                off.append(f"{name}, {role}")
    print_table("", ["model", "blocks", "ours", "published", "difference"], rows)
    if off:
        print(f"Off by more than {TOLERANCE}: {'; '.join(off)}")
        return 1
    print(f"All within {TOLERANCE} of the published values.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except GradattrError as error:
        print(f"check_theory: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
