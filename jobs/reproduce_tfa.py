"""The experiments of training feature attribution beside what was published: the insertion test
(Table 1) and the patch sweep (D.3).

    python -m jobs.reproduce_tfa insertion
    python -m jobs.reproduce_tfa patch --output sweep.png
    python -m jobs.reproduce_tfa patch --manifest manifests/tfa_shortcut.yaml --fractions 0 0.5 1

Both carry their manifest out, or resume it (--set changes it: where the data stands, how many
queries). Exit code 1 if a published claim does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from scipy.stats import spearmanr

from gradattr.cli.output import print_table
from gradattr.errors import GradattrError, UsageError
from gradattr.manifest.tfa import TfaManifest
from gradattr.report.insertion_curves import plot_insertion
from gradattr.report.patch_sweep import SweepPoint, plot_sweep, sweep_point
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.runtime.progress import Event
from gradattr.storage.objects import open_store
from gradattr.work.manifests import load_manifest

MANIFESTS = {
    "insertion": "manifests/paper_tfa_insertion.yaml",
    "patch": "manifests/paper_tfa_patch.yaml",
}

#: 17 fractions from 0 to 100 %.
FRACTIONS = tuple(number / 16 for number in range(17))

#: What D.3 says of the rank correlation between the fraction and the share in the patch.
CORRELATION = 0.8


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    claims = insertion(options) if options.experiment == "insertion" else patch_sweep(options)
    print_table(
        "What was published",
        ["claim", "here", "holds"],
        [[text, here, "yes" if holds else "NO"] for text, here, holds in claims],
    )
    return 0 if all(holds for _, _, holds in claims) else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.reproduce_tfa", description=str(__doc__).partition("\n\n")[0]
    )
    parser.add_argument("experiment", choices=list(MANIFESTS))
    parser.add_argument("--manifest", help="in place of the paper's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS))
    parser.add_argument("--map", help="the map that is judged; default: the manifest's first")
    parser.add_argument("--output", help="figure: .png, .svg or .pdf")
    return parser.parse_args(arguments)


#: Claim, what was found, whether it holds.
Claim = tuple[str, str, bool]


def insertion(options: argparse.Namespace) -> list[Claim]:
    """Table 1: the change of the query's loss after a step on the masked training image."""
    manifest = _manifest(options, [])
    if manifest.insertion is None:
        raise UsageError("the manifest has no insertion test")
    found = _finished(manifest)
    rows = found.sql(
        "SELECT * FROM tfa_summary WHERE side = 'helpful' "
        "ORDER BY test DESC, steps, map_method, level"
    ).to_pylist()
    print_table(
        f"{found.run_id}: change of the query's loss in nats, pixels by the map - at random",
        ["test", "steps", "map", "k", "pairs", "by the map", "at random", "difference, 95 %"],
        [
            [
                row["test"],
                row["steps"],
                row["map_method"],
                f"{100 * row['level']:g} %",
                row["n"],
                f"{row['top']:+.5f}",
                f"{row['random']:+.5f}",
                f"{row['difference']:+.5f} [{row['low']:+.5f}, {row['high']:+.5f}]",
            ]
            for row in rows
        ],
        right=["k", "pairs", "by the map", "at random"],
    )
    print(f"Curves: {plot_insertion(found, options.output or 'insertion.png')}")
    own = [
        row
        for row in rows
        if row["test"] == "insertion"
        and row["steps"] == min(manifest.insertion.steps)
        and row["map_method"] == (options.map or found.map_methods[0])
    ]
    return _insertion_claims(own)


def _insertion_claims(rows: list[dict[str, Any]]) -> list[Claim]:
    below = [row for row in rows if row["level"] <= 0.5]
    whole = [row for row in rows if row["level"] == 1.0]
    sizes = [abs(row["difference"]) for row in rows]
    return [
        (
            "pixels by the map lower the loss more, for each k up to 50 %",
            f"{sum(row['high'] < 0 for row in below)} of {len(below)} intervals below 0",
            all(row["high"] < 0 for row in below),
        ),
        (
            "the difference shrinks as k grows",
            f"{sizes[0]:.5f} at the first k, {sizes[-2]:.5f} at the last below 100 %",
            len(sizes) > 2 and sizes[-2] < sizes[0],
        ),
        (
            "at 100 % it is exactly 0",
            ", ".join(f"{row['difference']:g}" for row in whole),
            all(row["difference"] == 0 for row in whole),
        ),
    ]


def patch_sweep(options: argparse.Namespace) -> list[Claim]:
    """D.3: a run for each fraction of patched training images."""
    points: list[SweepPoint] = []
    for fraction in options.fractions:
        manifest = _manifest(options, [f"data.patch.fraction={fraction}"])
        points.append(sweep_point(_finished(manifest), manifest))
    maps = list(points[0].shares)
    print_table(
        "Patch sweep, in %",
        ["patched", "accuracy", "own class", "other class, patched", "harmful patched", *maps],
        [
            [
                _percent(value)
                for value in (
                    point.fraction,
                    point.accuracy,
                    point.own_class,
                    point.other_class,
                    point.patched,
                    *point.shares.values(),
                )
            ]
            for point in points
        ],
        right=["patched", "accuracy", "own class", "other class, patched", *maps],
    )
    print(f"Chance in the patch: {_percent(points[0].area)} %")
    print(f"Curves: {plot_sweep(points, options.output or 'patch_sweep.png')}")
    return _sweep_claims(points, options.map or maps[0])


def _sweep_claims(points: list[SweepPoint], name: str) -> list[Claim]:
    fractions = [point.fraction for point in points]
    claims: list[Claim] = []
    for what, values in (
        ("accuracy on the patched class without its patch falls", [p.own_class for p in points]),
        ("accuracy on the other class with the patch falls", [p.other_class for p in points]),
    ):
        if None in values:
            raise UsageError("the queries' data lacks one of the two classes, or its labels")
        correlation = float(spearmanr(fractions, values).statistic)  # type: ignore[arg-type]
        claims.append((what, f"Spearman with the fraction {correlation:+.2f}", correlation < 0))
    correlation = float(spearmanr(fractions, [p.shares[name] for p in points]).statistic)
    claims.append(
        (
            f"the share of '{name}' in the patch rises",
            f"Spearman with the fraction {correlation:+.2f}, asked for {CORRELATION:+.2f}",
            correlation > CORRELATION,
        )
    )
    return claims


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _manifest(options: argparse.Namespace, overrides: Sequence[str]) -> TfaManifest:
    path = options.manifest or MANIFESTS[options.experiment]
    manifest = load_manifest(path, overrides=[*options.set, *overrides])
    if not isinstance(manifest, TfaManifest):
        raise UsageError(f"{path}: kind '{manifest.kind}', expected 'tfa'")
    return manifest


def _finished(manifest: TfaManifest) -> Run:
    """The run of a manifest, carried out if it is not complete."""
    result = run(manifest, listener=_say)
    return Run(open_store(manifest.store), result.run_id)


def _say(event: Event) -> None:
    if event.kind in ("plan", "complete", "stage", "beat"):
        print(event.message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except GradattrError as error:
        print(f"reproduce_tfa: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
