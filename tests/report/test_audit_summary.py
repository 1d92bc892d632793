"""Headlines: what a run of any kind has found, in a few lines."""

from __future__ import annotations

from typing import Any

import pytest

from gradattr.report.audit_summary import headlines, summarise_jobs
from gradattr.report.results import Run
from gradattr.report.summary import summarise

NOTHING: dict[str, Any] = {
    "kind": "attribute",
    "accuracy": None,
    "methods": [],
    "training": [],
    "diffroar": [],
    "evaluation": None,
    "tfa": None,
    "patching": None,
    "errors": {},
}


def _lines(**found: Any) -> list[str]:
    return headlines(NOTHING | found)


def test_of_a_real_run(opened: Run) -> None:
    summary = summarise(opened)
    gaps = {m["median_gap"]: m["method"] for m in summary["methods"] if m["median_gap"] is not None}
    assert headlines(summary) == [
        f"accuracy {summary['accuracy']:.2%}",
        "4 methods",
        f"largest median gap {max(gaps):.2%} ({gaps[max(gaps)]})",
    ]
    assert summarise_jobs(opened, summarise) == []
    assert summarise(opened)["jobs"] == []


def test_of_a_training() -> None:
    row = {"model": "model", "epochs": 3, "accuracy": 0.5, "test_accuracy": None}
    assert _lines(kind="train", training=[row]) == ["model: 3 epochs, training accuracy 50.00%"]
    tested = row | {"test_accuracy": 0.25}
    assert _lines(kind="train", training=[tested]) == ["model: 3 epochs, test accuracy 25.00%"]
    assert "0 methods" in _lines(training=[row]), "other kinds tell of what the model is for"


def test_of_failures() -> None:
    found = _lines(accuracy=0.5, errors={"decode_error": 2, "non_finite": 1})
    assert found == ["accuracy 50.00%", "0 methods", "failures: 2 decode_error, 1 non_finite"]


def test_of_diffroar() -> None:
    def row(level: float, score: float, verdict: str, learner: str = "a") -> dict[str, Any]:
        return {
            "scheme": "a/saliency",
            "learner": learner,
            "level": level,
            "diffroar": score,
            "verdict": verdict,
        }

    rows = [
        row(0.1, 0.2, "satisfies"),
        row(0.3, -0.4, "violates"),
        row(0.5, 0.3, "satisfies"),
        row(1.0, 0.9, "floor"),
        row(0.1, 0.8, "control"),
    ]
    told = "a/saliency: satisfies at 2, violates at 1 of 3 levels; largest DiffROAR -0.4000 at 30 %"
    assert _lines(kind="diffroar", diffroar=rows) == [told]
    both = _lines(kind="diffroar", diffroar=[*rows, row(0.1, 0, "undecided", "b")])
    assert both[0].startswith("a/saliency (a): ")
    assert both[1] == (
        "a/saliency (b): undecided at 1 of 1 level; largest DiffROAR +0.0000 at 10 %"
    )


def test_of_metrics() -> None:
    best = {"method": "uni", "rank": 1, "mean": 0.25, "low": 0.2, "high": 0.3, "tied_with": None}
    other = best | {"method": "random", "rank": 2, "mean": 0.5}
    tied = best | {"low": None, "tied_with": ["a", "b"]}
    aimless = best | {"rank": None}
    evaluation = {
        "metrics": [
            {"metric": "deletion_auc", "methods": [best, other]},
            {"metric": "one_image", "methods": [tied]},
            {"metric": "entropy", "methods": [aimless]},
            {"metric": "empty", "methods": [best | {"mean": None}]},
        ]
    }
    assert _lines(kind="evaluate", evaluation=evaluation) == [
        "deletion_auc: best uni 0.25 [0.2, 0.3]",
        "one_image: best uni 0.25, not told apart from 2",
    ]


@pytest.mark.parametrize("share", [None, 0.5])
def test_of_training_images(share: float | None) -> None:
    judged = {
        "method": "grad_cos",
        "side": "helpful",
        "map_method": "tfa",
        "marked_share": share,
        "marked_area": 0.125,
    }
    tfa = {"queries": 3, "pairs": 12, "maps": 24, "judged": [judged]}
    marked = (
        "grad_cos, helpful, tfa: 50.0% of the top pixels in the marked region (12.5% of the image)"
    )
    expected = ["3 queries, 12 pairs, 24 maps", *([marked] if share else [])]
    assert _lines(kind="tfa", tfa=tfa) == expected


def test_of_patching() -> None:
    rows = [
        {"baseline": "uni", "method": "attribution_patching", "measure": "spearman", "mean": 0.5},
        {"baseline": "uni", "method": "attribution_patching", "measure": "l2", "mean": 3.0},
    ]
    found = _lines(kind="patching", patching={"baselines": [{}], "faithfulness": rows})
    assert found == ["uni, attribution_patching: Spearman 0.500 with the exact effects"]
    alone: dict[str, Any] = {"baselines": [{}, {}], "faithfulness": []}
    assert _lines(kind="patching", patching=alone) == ["2 baselines"]
