"""UNI's tables on given models and data, beside the values that were published for ImageNet.

    python -m jobs.reproduce_uni manifests/paper_uni_cifar10.yaml
    python -m jobs.reproduce_uni manifests/paper_uni_imagenet.yaml --models \\
        torchvision:resnet18 torchvision:vit_b_16 --set data.limit=100

A manifest of kind evaluate is carried out, or resumed, for each model. Exit code 1 if a claim of
the paper does not hold where it can be judged: the interval of a difference decides.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from gradattr.cli.output import print_table
from gradattr.errors import GradattrError, UsageError
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.storage.objects import open_store
from gradattr.work.manifests import load_manifest

#: Table -> its metrics, as columns.
TABLES = {
    "1 Faithfulness": ("mu_fidelity_spearman", "deletion_auc", "insertion_auc"),
    "2 Robustness under attack": ("attack_spearman", "attack_top_intersection"),
    "3 Paths": ("path_monotonicity", "baseline_confidence_drop", "baseline_falls"),
    "4 Riemann stability": ("stability_1_spearman", "stability_15_spearman"),
}

_MODELS = ("resnet18", "efficientnet_v2_s", "convnext_tiny", "vgg16_bn", "vit_b_16", "swin_t")

#: (method, metric) -> value by model, as published, with ImageNet weights.
PUBLISHED: dict[tuple[str, str], dict[str, float]] = {
    key: dict(zip(_MODELS, values, strict=True))
    for key, values in {
        ("uni", "path_monotonicity"): (0.97, 0.95, 0.99, 0.94, 0.89, 0.97),
        ("integrated_gradients", "path_monotonicity"): (0.69, 0.28, 0.76, 0.69, 0.71, 0.88),
        ("uni", "insertion_auc"): (0.64, 0.64, 0.63, 0.56, 0.71, 0.68),
        ("uni", "deletion_auc"): (0.06, 0.19, 0.11, 0.08, 0.14, 0.13),
        ("uni", "mu_fidelity_spearman"): (0.12, 0.06, 0.16, 0.18, 0.15, 0.13),
    }.items()
}

#: Methods that no claim is about.
CONTROLS = ("random", "linear")

#: What the paper says of UNI against the other methods: metrics in which it is ahead.
AHEAD = (
    "path_monotonicity",
    "mu_fidelity_spearman",
    "insertion_auc",
    "deletion_auc",
    "attack_spearman",
    "stability_15_spearman",
)


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    verdicts: list[tuple[str, str, str, str]] = []
    for model in options.models or [None]:
        manifest = _manifest(options, model)
        result = run(manifest, listener=_say)
        found = Run(open_store(manifest.store), result.run_id)
        _print_tables(found, manifest)
        verdicts += [(found.run_id, *claim) for claim in _claims(found, options.method)]
    print_table("What the paper claims of UNI", ["run", "claim", "here", "holds"], verdicts)
    return 1 if any(row[-1] == "NO" for row in verdicts) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.reproduce_uni", description=str(__doc__).partition("\n\n")[0]
    )
    parser.add_argument("manifest", help="of kind evaluate")
    parser.add_argument("--models", nargs="+", metavar="ARCH", help="in place of the manifest's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--method", default="uni", help="id of the method that is UNI")
    return parser.parse_args(arguments)


def _manifest(options: argparse.Namespace, model: str | None) -> EvaluateManifest:
    overrides = list(options.set)
    if model is not None:
        short = re.sub("[^a-z0-9]+", "-", model.rpartition(":")[2].lower())
        overrides += [f"model.arch={model}", f"name=uni-{short}"[:45]]
    manifest = load_manifest(options.manifest, overrides=overrides)
    if not isinstance(manifest, EvaluateManifest):
        raise UsageError(f"{options.manifest}: kind '{manifest.kind}', expected 'evaluate'")
    return manifest


def _print_tables(found: Run, manifest: EvaluateManifest) -> None:
    cells = {(row["method"], row["metric"]): row for row in found.table("summary").to_pylist()}
    model = _name(manifest)
    for title, metrics in TABLES.items():
        columns = [metric for metric in metrics if any(metric == name for _, name in cells)]
        if not columns:
            continue
        print_table(
            f"{found.run_id}: table {title}; mean [95 %], rank; (published)",
            ["method", *columns],
            [
                [method, *(cell(cells, method, metric, model) for metric in columns)]
                for method in found.methods
            ],
        )


def cell(cells: dict[tuple[str, str], dict[str, Any]], method: str, metric: str, model: str) -> str:
    row = cells.get((method, metric))
    if row is None or row["mean"] is None:
        return ""
    text = f"{row['mean']:.3f}"
    if row["low"] is not None:
        text += f" [{row['low']:.3f}, {row['high']:.3f}]"
    if row["rank"] is not None:
        text += f" #{row['rank']}"
    published = PUBLISHED.get((method, metric), {}).get(model)
    return text if published is None else f"{text} ({published:.2f})"


def _name(manifest: EvaluateManifest) -> str:
    """The model as the table of published values calls it."""
    return str(getattr(manifest.model, "name", manifest.model.arch))


#: Claim, what was found, and whether it holds.
Claim = tuple[str, str, str]


def _claims(found: Run, uni: str) -> list[Claim]:
    """What the paper says of UNI, as far as the run's metrics tell."""
    if uni not in found.methods:
        raise UsageError(f"run {found.run_id} has no method '{uni}'; name it with --method")
    summary = found.table("summary").to_pylist()
    up = {row["metric"]: bool(row["higher_is_better"]) for row in summary}
    claims = []
    for metric in AHEAD:
        standing = _standing(found, uni, metric, up.get(metric, True))
        if any(standing.values()):
            claims.append(_ahead(metric, standing))
    own = [row for row in summary if (row["method"], row["metric"]) == (uni, "baseline_falls")]
    for row in own:
        share = row["mean"] or 0.0
        claim = "confidence falls at the baseline of every image"
        claims.append((claim, f"of {100 * share:.1f} %", "yes" if share >= 0.99 else "NO"))
    return claims


def _standing(found: Run, uni: str, metric: str, up: bool) -> dict[str, list[str]]:
    """The other methods: those that UNI is ahead of, behind, and not told apart from. Controls are
    none of them: random maps depend on a seed alone, so that no attack changes them."""
    standing: dict[str, list[str]] = {"ahead": [], "behind": [], "tied": []}
    methods = found.manifest["methods"]
    controls = {one["id"] or one["name"] for one in methods if one["name"] in CONTROLS}
    for row in found.table("differences").to_pylist():
        if row["metric"] != metric or uni not in (row["first"], row["second"]):
            continue
        first = row["first"] == uni
        other = row["second"] if first else row["first"]
        if other in controls:
            continue
        if row["p_corrected"] is None or row["p_corrected"] >= 0.05:
            standing["tied"].append(other)
        else:
            better = (row["mean"] > 0) == (first == up)
            standing["ahead" if better else "behind"].append(other)
    return standing


def _ahead(metric: str, standing: dict[str, list[str]]) -> Claim:
    here = f"ahead of {len(standing['ahead'])}"
    if standing["behind"]:
        here += f"; behind {', '.join(standing['behind'])}"
    if standing["tied"]:
        here += f"; not told apart from {', '.join(standing['tied'])}"
    holds = "NO" if standing["behind"] else "undecided" if standing["tied"] else "yes"
    return f"{metric}: better than every other method", here, holds


def _say(event: Event) -> None:
    if event.kind in ("plan", "complete", "stage", "beat", "note"):
        print(event.message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except GradattrError as error:
        print(f"reproduce_uni: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
