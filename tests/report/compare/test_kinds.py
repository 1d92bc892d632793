"""Tiny real runs of every kind compared: with each other, the other way round, with themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradattr.errors import UsageError
from gradattr.manifest.kinds import Manifest
from gradattr.report.compare.maps import compare_maps
from gradattr.report.compare.runs import Comparison, compare_runs
from gradattr.report.compare.sections import Row, Section
from gradattr.report.results import Run, open_run
from gradattr.runtime.driver import run

Make = Callable[..., Manifest]


def opened(manifest: Manifest) -> Run:
    return open_run(run(manifest).uri)


def section(found: Comparison, title: str) -> Section:
    (one,) = [each for each in found.sections if each.title.startswith(title)]
    return one


def named(one: Section, **names: Any) -> Row:
    (row,) = [row for row in one.rows if all(row[key] == names[key] for key in names)]
    return row


def told_by(found: Run, table: str, **values: Any) -> Row:
    rows = found.table(table).to_pylist()
    row: Row
    (row,) = [row for row in rows if all(row[key] == values[key] for key in values)]
    return row


def check_laws(a: Run, b: Run) -> Comparison:
    """B - A is the opposite of A - B, likeness has no direction, and a run is like itself."""
    found, turned, itself = compare_runs(a, b), compare_runs(b, a), compare_runs(b, b)
    assert [one.title for one in found.sections] == [one.title for one in turned.sections]
    assert any(one.rows for one in found.sections)
    for one, other in zip(found.sections, turned.sections, strict=True):
        assert len(one.rows) == len(other.rows)
        for row in one.rows:
            back = named(other, **{name: row[name] for name in one.names})
            if one.kind == "likeness":
                assert back["mean"] == pytest.approx(row["mean"])
                continue
            assert (back["a"], back["b"], back["n"]) == (row["b"], row["a"], row["n"])
            assert back["difference"] == -row["difference"]
            assert (back["p"], back["p_corrected"]) == (row["p"], row["p_corrected"])
            if row["low"] is None:
                assert back["high"] is None
            else:
                assert (back["low"], back["high"]) == (-row["high"], -row["low"])
                assert row["low"] <= row["difference"] <= row["high"]
    for one in itself.sections:
        for row in one.rows:
            if one.kind == "likeness":
                assert row["mean"] == pytest.approx(1)
            else:
                assert row["difference"] == 0
                if "Tests of the maps" not in one.title and row["low"] is not None:
                    assert (row["low"], row["high"]) == (0, 0)
    assert itself.asked == []
    assert "were asked the same" in itself.about
    return found


METHODS = [
    "saliency",
    {"name": "integrated_gradients", "steps": 4},
    "random",
]


def test_attributions(make_manifest: Make) -> None:
    a = opened(make_manifest(methods=METHODS, data={"format": "digits", "limit": 30}))
    changed = [METHODS[0], {**METHODS[1], "steps": 16}, "gradient"]  # type: ignore[dict-item]
    b = opened(make_manifest(methods=changed, data={"format": "digits", "limit": 26}, shard_rows=7))
    found = check_laws(a, b)
    assert "THE DATA DIFFER" in found.about
    assert "The models are the same." in found.about
    asked = {one.key: (one.a, one.b) for one in found.asked}
    assert asked["data.limit"] == (30, 26)
    assert asked["methods[integrated_gradients].steps"] == (4, 16)
    assert asked["methods[random]"] == ("present", None)
    assert asked["methods[gradient]"] == (None, "present")
    assert not any("random]." in key for key in asked)

    said = section(found, "What the model says")
    assert said.notes[0] == "0 of 26 images are taken for another class"
    assert "4 only in A and 0 only in B" in said.notes[1]
    confidence = named(said, measure="confidence")
    assert (confidence["n"], confidence["difference"]) == (26, 0)
    shared = a.frame("predictions").head(26)
    assert confidence["a"] == pytest.approx(shared["confidence"].mean(), rel=1e-6)

    numbers = section(found, "Numbers of the maps")
    gap = named(numbers, method="integrated_gradients", measure="completeness_gap_relative")
    assert gap["difference"] < 0
    assert gap["p"] < 0.01
    assert "Only in A, left out: rows of random" in numbers.notes
    assert "Only in B, left out: rows of gradient" in numbers.notes

    maps = section(found, "Maps of the same image")
    assert named(maps, method="saliency", measure="Spearman of |map|")["mean"] == 1
    finer = named(maps, method="integrated_gradients", measure="Spearman of map")
    assert 0.8 < finer["mean"] < 1
    assert finer["n"] == 26
    assert "26 of 52 maps are identical" in maps.notes
    # A few of the images, spread evenly over all.
    (few,) = compare_maps(a, b, most=5)
    assert few.notes[0] == "Of 26 images in both runs, 5, evenly spread"
    assert {row["n"] for row in few.rows} == {5}


@pytest.mark.parametrize("maps", ["none", "pooled:4"])
def test_maps_that_are_not_whole(make_manifest: Make, tmp_path: Any, maps: str) -> None:
    data = {"format": "digits", "limit": 6}
    a = opened(make_manifest(methods=METHODS[:1], data=data))
    url = str(tmp_path / "other")
    b = opened(make_manifest(methods=METHODS[:1], data=data, store={"url": url, "maps": maps}))
    found = compare_runs(a, b)
    assert [(one.key, one.b) for one in found.asked] == [("store.maps", maps)]
    titles = [one.title for one in found.sections]
    if maps == "none":
        assert "Maps of the same image" not in titles
    else:
        (row, *_) = section(found, "Maps of the same image").rows
        assert 0.3 < row["mean"] < 1
        assert "B keeps maps as 'pooled:4'" in section(found, "Maps of the same image").notes[0]


def test_leakage(make_manifest: Make) -> None:
    blocks = {"format": "blockmnist", "split": "test", "limit": 6}
    common: dict[str, Any] = {"data": blocks}
    common["model"] = {"arch": "linear", "train": {"data": blocks, "epochs": 1}}
    a = opened(make_manifest(**common, methods=["saliency"], leakage_levels=[0.1, 0.5]))
    smooth = {"name": "smoothgrad", "id": "saliency", "samples": 2, "target": "loss_true"}
    b = opened(make_manifest(**common, methods=[smooth], leakage_levels=[0.5, 0.9]))
    found = section(check_laws(a, b), "Leakage")
    row = named(found, method="saliency", level=0.5, measure="share")
    told = [one for one in a.table("leakage").to_pylist() if one["level"] == 0.5]
    assert row["a"] == pytest.approx(np.mean([one["share"] for one in told]))
    assert "Only in B, left out: rows of 0.9 of saliency" in found.notes


def test_evaluations(evaluation: Callable[..., Manifest]) -> None:
    metrics = ["insertion", {"metric": "complexity", "images": 5}]
    a = opened(evaluation(*metrics))
    b = opened(evaluation(*metrics[:1], "cost", methods=["gradient", "random"], name="two"))
    found = check_laws(a, b)
    scores = section(found, "Scores")
    assert {row["metric"] for row in scores.rows} == {"insertion_auc"}
    assert [row["method"] for row in scores.rows] == ["gradient", "random"]
    row = named(scores, method="random")
    told = told_by(a, "summary", metric="insertion_auc", method="random")
    assert row["a"] == pytest.approx(told["mean"])
    assert any("gradient of complexity_entropy" in note for note in scores.notes)
    assert {one.key for one in found.asked} >= {
        "metrics[complexity]",
        "metrics[cost]",
        "methods[uni]",
    }


def test_audits(audit: Callable[..., Manifest]) -> None:
    a = opened(audit(levels=[0.1, 1.0], baselines=["random"], mask_only=False))
    b = opened(audit(levels=[0.1, 0.5, 1.0], baselines=["random"], mask_only=False, paired="all"))
    c = opened(audit(levels=[0.1, 1.0], baselines=["random"], mask_only=False, seed=1))
    found = check_laws(a, b)
    scores = section(found, "DiffROAR")
    assert len(scores.rows) == 4
    assert scores.notes[0] == "4 of 4 paired by seed (Student's t)"
    row = named(scores, scheme="random", level=0.1)
    told = told_by(a, "diffroar", scheme="random", level=0.1)
    assert row["a"] == pytest.approx(told["diffroar"])
    assert row["n"] == 2
    (alone,) = [note for note in scores.notes if note.startswith("Only in B, left out: scores of")]
    assert "random at 0.5 (retrain)" in alone
    floor = named(scores, scheme="random", level=1.0)
    assert (floor["p"], floor["p_corrected"]) == (None, None)
    other = section(check_laws(a, c), "DiffROAR")
    assert other.notes[0] == "4 of 4 unpaired (Welch's t)"
    assert section(found, "Training").rows


def test_training_attributions(tfa: Callable[..., Manifest]) -> None:
    tested: dict[str, Any] = {"insertion": {"levels": [0.2, 1.0]}, "keep": "full"}
    tested["scores"] = ["grad_cos", "grad_dot"]
    a = opened(tfa(**tested))
    b = opened(tfa(**tested, top=5, name="more"))
    found = check_laws(a, b)
    pairs = section(found, "Training images")
    row = named(pairs, method="grad_cos", side="helpful")
    # The first three of five.
    assert (row["n"], row["mean"]) == (5, pytest.approx(0.6))
    assert named(pairs, method="grad_cos", side="both")["mean"] == pytest.approx(1)
    whole = named(pairs, method="grad_dot", measure="Spearman of all scores")
    assert (whole["n"], whole["mean"]) == (5, pytest.approx(1))
    # Other parameters, other scores of the same training examples.
    other = opened(tfa(scores=["grad_dot"], keep="full", maps=[], parameters=["*bias"]))
    alike = section(compare_runs(a, other), "Training images")
    row = named(alike, method="grad_dot", measure="Spearman of all scores")
    assert 0.2 < row["mean"] < 0.999
    assert "Only in A, left out: scores of grad_cos" in alike.notes
    few = opened(tfa(scores=["grad_dot"], keep="top:3", maps=[]))
    measures = {one["measure"] for one in section(compare_runs(a, few), "Training images").rows}
    assert measures == {"same training images", "Spearman of scores in common"}
    tests = section(found, "Tests of the maps")
    row = named(tests, method="grad_cos", level=0.2)
    told = told_by(a, "tfa_summary", method="grad_cos", level=0.2)
    assert row["a"] == pytest.approx(told["difference"])
    assert np.isfinite([row["low"], row["high"], row["p"]]).all()


def test_patchings(make_patching: Callable[..., Manifest]) -> None:
    changed = {"baselines": [{"baseline": "uni", "iterations": 3}, "zero"], "name": "other"}
    found = check_laws(opened(make_patching()), opened(make_patching(**changed)))
    rows = section(found, "How far estimates")
    start = named(section(found, "Prompts"), baseline="zero", measure="baseline_confidence")
    assert (start["n"], start["difference"]) == (8, 0)
    assert named(rows, baseline="zero", measure="l2")["difference"] == 0
    assert named(rows, baseline="uni", measure="l2")["difference"] != 0
    assert {row["n"] for row in rows.rows} == {8}
    assert any("Only in A" in note and "of random" in note for note in rows.notes)


def test_trainings(make_manifest: Make, tmp_path: Any) -> None:
    def trained(epochs: int) -> Run:
        model = {"arch": "mlp", "hidden": [8], "train": {"data": "digits", "epochs": epochs}}
        text = {"kind": "train", "name": "t", "model": model, "runtime": {"address": "inline"}}
        from gradattr.manifest.train import TrainManifest

        return opened(TrainManifest.model_validate({**text, "store": {"url": str(tmp_path)}}))

    found = check_laws(trained(1), trained(2))
    assert "THE MODELS DIFFER. The data are the same." in found.about
    (rows,) = found.sections
    loss = named(rows, model="model", measure="loss")
    assert loss["difference"] < 0
    assert loss["low"] is None


def test_other_kinds_are_refused(make_manifest: Make, audit: Callable[..., Manifest]) -> None:
    a = opened(make_manifest(methods=["random"], data={"format": "digits", "limit": 4}))
    b = opened(audit(levels=[1.0], seeds=1, baselines=["random"]))
    with pytest.raises(UsageError, match=r"is of kind 'attribute', run tiny-.* of kind 'diffroar'"):
        compare_runs(a, b)
