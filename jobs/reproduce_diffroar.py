"""DiffROAR curves beside the published ones (Shah et al. 2021): run the paper's manifests, or look
at finished runs, print a table, draw the figure.

    python -m jobs.reproduce_diffroar                              # the paper's four, on a cluster
    python -m jobs.reproduce_diffroar paper_cifar10_resnet50 --set runtime.address=ray://head:10001
    python -m jobs.reproduce_diffroar diffroar_digits              # small; nothing is published
    python -m jobs.reproduce_diffroar paper-cifar10-resnet50-1a2b3c4d --store s3://audits/results

Each name is a manifest (under manifests/, a file, or a URL), which is carried out or resumed, or
else a finished run of --store. Exit code 1 if a published sign is contradicted: our 95 % interval
lies on the other side of 0, where the published difference is larger than our noise floor.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradattr.cli.locate import locate
from gradattr.cli.output import print_table
from gradattr.errors import GradattrError
from gradattr.report.curves import panels_of, plot_curves
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.storage.objects import open_store
from gradattr.work.manifests import load_manifest

MANIFESTS = Path("manifests")
PAPER = (
    "paper_svhn_mlp",
    "paper_fashion_mnist_mlp",
    "paper_cifar10_resnet50",
    "paper_imagenet10_resnet18",
)

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)

#: Name of the manifest -> base model -> DiffROAR of the scheme saliency at LEVELS.
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "paper-cifar10-resnet50": {
        "standard": (-0.056, -0.048, -0.030, -0.006, 0.010, 0.012, 0.010, -0.001),
        "linf-8-255": (0.232, 0.228, 0.188, 0.149, 0.094, 0.045, 0.015, 0.001),
        "l2-0.5": (0.121, 0.137, 0.128, 0.121, 0.101, 0.067, 0.051, -0.001),
    },
    "paper-imagenet10-resnet18": {
        "standard": (-0.053, -0.046, -0.037, 0.007, 0.051, 0.011, 0.039, -0.010),
        "linf-4-255": (0.149, 0.111, 0.088, 0.076, 0.051, 0.032, 0.018, -0.008),
    },
}


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    runs = [_finished(name, options.set, options.store) for name in options.names or PAPER]
    against = [line for one in runs for line in _compare(one)]
    panels = [panel for one in runs for panel in panels_of(one, published=published(one))]
    print(f"Curves: {plot_curves(panels, options.output, pred_power=True)}")
    for line in against:
        print(f"Against the published sign: {line}")
    return 1 if against else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.reproduce_diffroar", description=str(__doc__).partition("\n\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="MANIFEST_OR_RUN")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--store", default="results", help="where finished runs are looked for")
    parser.add_argument("--output", default="diffroar.png", help=".png, .svg or .pdf")
    return parser.parse_args(arguments)


def _finished(name: str, overrides: Sequence[str], store: str) -> Run:
    """The run of a manifest, carried out if it is not complete; or a finished one."""
    path = MANIFESTS / f"{name}.yaml"
    if not path.exists() and not name.endswith((".yaml", ".yml")):
        return Run(*locate(name, store, None))
    manifest = load_manifest(path if path.exists() else name, overrides=overrides)
    result = run(manifest, listener=_say)
    return Run(open_store(manifest.store), result.run_id)


def _say(event: Event) -> None:
    if event.kind in ("plan", "complete", "stage", "beat"):
        print(event.message, file=sys.stderr, flush=True)


def published(one: Run) -> dict[str, dict[float, float]]:
    """Scheme -> level -> published DiffROAR; empty where nothing is published."""
    models = PUBLISHED.get(one.manifest["name"], {})
    return {
        f"{model}/saliency": dict(zip(LEVELS, values, strict=True))
        for model, values in models.items()
    }


def _compare(one: Run) -> list[str]:
    """Print a run's scores beside the published ones; return where a sign is contradicted."""
    theirs = published(one)
    rows = one.sql("SELECT * FROM diffroar WHERE variant IN ('retrain', 'no_retrain')").to_pylist()
    order = list(dict.fromkeys(one.table("diffroar")["scheme"].to_pylist()))
    rows.sort(key=lambda row: (order.index(row["scheme"]), row["learner"], row["level"]))
    against: list[str] = []
    cells = []
    for row in rows:
        value = theirs.get(row["scheme"], {}).get(row["level"])
        agrees = "" if value is None else _agreement(row, value)
        if agrees == "no":
            against.append(f"{one.run_id}, {row['scheme']}, k = {100 * row['level']:g} %")
        shown = "" if value is None else f"{value:+.3f}"
        cells.append(
            [row["scheme"], f"{100 * row['level']:g} %", _ours(row), row["verdict"], shown, agrees]
        )
    print_table(
        f"{one.run_id}: DiffROAR with its 95 % interval",
        ["scheme", "k", "ours", "verdict", "published", "same sign"],
        cells,
        right=["k", "published"],
    )
    return against


def _ours(row: dict[str, Any]) -> str:
    mean = f"{row['diffroar']:+.3f}"
    return mean if row["low"] is None else f"{mean} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _agreement(row: dict[str, Any], value: float) -> str:
    """'yes' or 'no' where both ours and the published difference are more than chance."""
    floor = row["noise_floor"] or 0.0
    if row["verdict"] not in ("satisfies", "violates") or abs(value) <= floor:
        return ""
    return "yes" if (row["verdict"] == "satisfies") == (value > 0) else "no"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except GradattrError as error:
        print(f"reproduce_diffroar: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
