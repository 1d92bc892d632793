"""Every metric of maps on maps whose worth is known: good ones, their reverse, random ones.

``python -m tests.calibration`` writes docs/calibration.md anew; a test holds it to what is so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store

PAGE = Path(__file__).parent.parent / "docs" / "calibration.md"
MAP, REVERSE, RANDOM = "integrated_gradients", "reverse", "random"


class Line(NamedTuple):
    """A row of the table."""

    metric: str
    reverse: str
    """What the reverse of a map gives, by the definition: a key of ``LAWS``."""
    reading: str


#: What the reverse gives, in words. A test holds every metric to its word.
LAWS = {
    "mirrored": "on the other side of chance",
    "opposite": "the same with the other sign",
    "same": "the same: the sign of the map does not count",
    "worse": "a larger error",
    "path": "the same: it looks at how the map was made",
}

LINES = (
    Line(
        "deletion_auc",
        "mirrored",
        "The lower, the sooner the class is lost as the highest pixels go. Compare with the random "
        "map's, never with 0: how low it can be is a matter of the model and of the fill.",
    ),
    Line(
        "insertion_auc",
        "mirrored",
        "The higher, the sooner the class is found as the highest pixels come. It starts from a "
        "blur that may show the class already: chance is far above 0.",
    ),
    Line(
        "insertion_from_mean_auc",
        "mirrored",
        "With `start: mean`. That of the reverse is the map's deletion AUC, and the other way "
        "round: the two metrics then ask the same question from both ends.",
    ),
    Line(
        "mu_fidelity_spearman_signed",
        "opposite",
        "1 where parts that the map calls worth more cost more when they go; 0 is chance; below 0 "
        "the map has its sign wrong.",
    ),
    Line(
        "mu_fidelity_pearson_signed",
        "opposite",
        "As above, of the values and not of their ranks: 1 on a linear model.",
    ),
    Line(
        "mu_fidelity_spearman",
        "same",
        "UNI's tables have it without the sign, so a map and its reverse are equally good, and "
        "chance is not 0: read it beside the signed one and the random map's.",
    ),
    Line("mu_fidelity_pearson", "same", "As above, of the values."),
    Line(
        "road_score",
        "opposite",
        "Half the distance between the curves of removing the least and the most relevant first, "
        "-0.5 to 0.5; 0 is chance. Pixels that are equal go in the same random order for a map and "
        "its reverse, so that a single image's sign need not turn.",
    ),
    Line(
        "infidelity",
        "worse",
        "An error, here of logits as squares become black: 0 is perfect. It depends on the map's "
        "scale, and a random map has the scale of its own numbers: read it only where maps "
        "claim to be in units of the score.",
    ),
    Line(
        "infidelity_scaled",
        "same",
        "The error with the best scale, which may be negative: 0 is perfect, and a map that "
        "predicts nothing has what a random one has, the mean square of the score's change. This "
        "one compares methods.",
    ),
    Line(
        "path_monotonicity",
        "path",
        "1 where confidence only grows from the baseline to the image. Random maps have no path, "
        "and no rows.",
    ),
    Line(
        "completeness_gap",
        "path",
        "How far the map, before any step on it, is from adding up to what it claims; 0 is exact. "
        "It says that the sum is right, not that its parts are.",
    ),
    Line(
        "complexity_sparseness",
        "same",
        "0 where all pixels are equal. Normal random numbers have 0.41, so a map below is spread "
        "more evenly than noise. Neither high nor low is better.",
    ),
    Line(
        "complexity_entropy",
        "same",
        "ln of the number of pixels (here 4.16) where all are equal, 0 for a single one.",
    ),
    Line("complexity_effective", "same", "Pixels that are not 0, of 64: black ones are, in IG."),
    Line(
        "localisation_pointing",
        "same",
        "Share of images whose highest |pixel| is in the region; here a half of the image, so "
        "chance is 0.5. In general chance is the region's share of the image.",
    ),
    Line("localisation_mass", "same", "Share of the sum of |map| in the region; chance as above."),
    Line("localisation_rank", "same", "Share of the highest pixels in the region; as above."),
    Line("localisation_auc", "same", "0.5 is chance whatever the region's size."),
    Line("cost_evaluations", "path", "What a map costs; random ones cost nothing."),
)

#: Pairs of methods in 'agreement', and what to read from them.
PAIRS = (
    (MAP, REVERSE, "Every rank turned round; the magnitudes, and so the top, are the same."),
    (MAP, RANDOM, "Unrelated: 0, and of the top the share that counts as such (0.1)."),
)

_CNN = {"arch": "cnn", "width": 8}
_TRAIN: dict[str, Any] = {"optimizer": "adam", "lr": 0.003, "batch_size": 64}


def manifests(folder: Path) -> dict[str, EvaluateManifest]:
    """The two evaluations: of digits, and of BlockMNIST, which has masks."""
    digits: dict[str, Any] = {"format": "digits"}
    blocks: dict[str, Any] = {"format": "blockmnist"}
    return {
        "digits": _manifest(
            folder,
            "calibration",
            digits | {"split": "test", "limit": 100},
            _CNN | {"train": _TRAIN | {"data": digits | {"split": "train"}, "epochs": 8}},
            [
                "deletion",
                "insertion",
                {"metric": "insertion", "id": "insertion_from_mean", "start": "mean"},
                "mu_fidelity",
                {"metric": "road", "images": 40},
                {"metric": "infidelity", "score": "logit", "perturbation": "square"},
                "path_monotonicity",
                "completeness",
                "complexity",
                "agreement",
                "cost",
            ],
        ),
        "blocks": _manifest(
            folder,
            "calibration-blocks",
            blocks | {"split": "test", "limit": 60},
            {
                "arch": "mlp",
                "hidden": [32],
                "train": _TRAIN | {"data": blocks | {"split": "train"}, "epochs": 5},
            },
            [{"metric": "localisation", "better": "outside"}],
        ),
    }


def _manifest(
    folder: Path, name: str, data: Any, model: Any, metrics: list[Any]
) -> EvaluateManifest:
    straight = {"name": MAP, "steps": 32, "rule": "midpoint"}
    return EvaluateManifest.model_validate(
        {
            "kind": "evaluate",
            "name": name,
            "data": data,
            "model": model,
            "methods": [straight, straight | {"id": REVERSE, "post": ["negate"]}, RANDOM],
            "metrics": metrics,
            "runtime": {"address": "inline"},
            "store": {"url": str(folder), "maps": "float32"},
        }
    )


def calibrated(folder: Path) -> dict[str, Run]:
    """Both evaluations, carried out in this folder."""
    return {
        name: Run(open_store(manifest.store), run(manifest).run_id)
        for name, manifest in manifests(folder).items()
    }


def scores(runs: Mapping[str, Run]) -> dict[tuple[str, str], np.ndarray]:
    """(metric, method) -> values by image, NaN where there is none."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in runs.values():
        for row in sorted(one.table("scores").to_pylist(), key=lambda row: int(row["row"])):
            value = np.nan if row["value"] is None else row["value"]
            found.setdefault((row["metric"], row["method"]), []).append(value)
    return {key: np.array(values) for key, values in found.items()}


def page(runs: Mapping[str, Run]) -> str:
    """The document."""
    better = {
        row["metric"]: {True: "higher", False: "lower", None: "-"}[row["higher_is_better"]]
        for one in runs.values()
        for row in one.table("summary").to_pylist()
    }
    values = scores(runs)
    lines = [
        *_HEAD,
        "| metric | better | integrated gradients | its reverse | random | a reverse gives |",
        "|---|---|---|---|---|---|",
    ]
    for line in LINES:
        cells = [_mean(values.get((line.metric, method))) for method in (MAP, REVERSE, RANDOM)]
        lines.append(
            f"| `{line.metric}` | {better[line.metric]} | {' | '.join(cells)} | "
            f"{LAWS[line.reverse]} |"
        )
    lines += ["", *_AGREEMENT]
    for first, second, reading in PAIRS:
        means = pair(runs, first, second)
        cells = [f"{means[name]:.2f}" for name in ("spearman", "spearman_magnitude", "top_overlap")]
        lines.append(f"| {first} and {second} | {' | '.join(cells)} | {reading} |")
    lines += ["", "## How to read each", ""]
    lines += [f"- `{line.metric}`: {line.reading}" for line in LINES]
    return "\n".join(lines) + "\n"


def pair(runs: Mapping[str, Run], first: str, second: str) -> dict[str, float]:
    """Means of the table 'agreement' for two methods, by measure."""
    return {
        row["measure"]: row["mean"]
        for row in runs["digits"].table("agreement").to_pylist()
        if {row["first"], row["second"]} == {first, second}
    }


def _mean(values: np.ndarray | None) -> str:
    """Mean over images, and what 1.96 standard errors are."""
    if values is None:
        return "-"
    known = values[np.isfinite(values)]
    error = 1.96 * float(known.std(ddof=1)) / np.sqrt(len(known))
    return f"{known.mean():.3f} ± {error:.3f}"


_HEAD = [
    "# What chance gives, and what the reverse of a map gives",
    "",
    "A metric is easier to trust when it has been seen at work on maps whose worth is known. Here",
    "every one judges integrated gradients of a small network that was trained on the embedded",
    "digits, the same maps with the other sign, and random maps. Means over images with 1.96",
    "standard errors; localisation is of BlockMNIST, where the region is the block without signal.",
    "A test makes this page and holds it to what is so (`python -m tests.calibration`).",
    "",
]
_AGREEMENT = [
    "Agreement of two methods, means over images:",
    "",
    "| pair | Spearman | Spearman of magnitudes | overlap of the top 10 % | how to read it |",
    "|---|---|---|---|---|",
]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PAGE.write_text(page(calibrated(Path(place))), encoding="utf-8")
