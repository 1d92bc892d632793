"""How maps are judged: by a region that is known, by the first map, and whether they are maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gradattr.models import save_weights
from gradattr.report.results import Run
from gradattr.work.tfa import training_maps
from tests.small_tfa import PLAIN
from tests.tfa_oracle import Oracle, finished, map_values, rows_of

PATCH = {"class": 3, "size": 2, "fraction": 0.5, "corner": "top_left"}
PATCHED = {"format": "digits", "split": "train", "limit": 60, "patch": PATCH}
MAPS: list[Any] = [
    PLAIN,
    {**PLAIN, "id": "times", "times_input": True},
    {"map": "two_step", "method": "saliency"},
]
LABELLED = ("query", "method", "train_row", "map_method")


@pytest.fixture(scope="module")
def judged(tfa: Any) -> Oracle:
    """Random pairs, so that images with and without a patch are among them."""
    changes = {"data": PATCHED, "scores": ["grad_cos", "random"], "maps": MAPS, "top": 8}
    return Oracle(tfa(name="judged", localisation_level=0.25, **changes))


def test_the_share_of_the_highest_pixels_and_of_all_mass_in_the_patch(judged: Oracle) -> None:
    maps = map_values(judged.run.table("tfa_maps"))
    masks = judged.train.masks
    assert masks is not None
    seen = set()
    for row in judged.run.table("tfa_map_scores").to_pylist():
        mask = masks[judged.train.rows.index(row["train_row"])].numpy()
        size = np.abs(maps[tuple(row[name] for name in LABELLED)]).mean(axis=0)
        seen.add(bool(mask.any()))
        assert row["status"] == "ok"
        if not mask.any():
            assert (row["marked_area"], row["marked_share"], row["mass_ratio"]) == (0, None, None)
            continue
        assert mask[:2, :2].all()
        assert row["marked_area"] == mask.mean() == 4 / 64
        assert row["mass_ratio"] == pytest.approx(size[mask].sum() / size.sum(), rel=1e-5)
        top = np.sort(size.ravel())[::-1]
        # A quarter of 64 pixels; ties, if there are any, are zeros below.
        assert top[15] > top[16]
        assert row["marked_share"] == (mask & (size >= top[15])).sum() / 16
    assert seen == {True, False}


def test_pairs_tell_the_marked_area_of_the_training_image(judged: Oracle) -> None:
    masks = judged.train.masks
    assert masks is not None
    for pair in judged.run.table("tfa_pairs").to_pylist():
        at = judged.train.rows.index(pair["train_row"])
        assert pair["marked_area"] == float(masks[at].double().mean())


def test_sums_and_agreement_with_the_first_map(judged: Oracle) -> None:
    maps = map_values(judged.run.table("tfa_maps"))
    for row in judged.run.table("tfa_map_scores").to_pylist():
        key = tuple(row[name] for name in LABELLED)
        values = maps[key].astype(np.float64)
        assert row["total"] == pytest.approx(values.sum(), rel=1e-5, abs=1e-8)
        assert row["abs_total"] == pytest.approx(np.abs(values).sum(), rel=1e-5)
        if row["map_method"] == "tfa":
            assert (row["spearman"], row["top_overlap"]) == (None, None)
            continue
        one, other = (np.abs(m).sum(axis=0).ravel() for m in (maps[(*key[:3], "tfa")], values))
        assert row["spearman"] == pytest.approx(spearmanr(one, other).statistic, abs=1e-6)
        if np.sort(other)[-6] > 0:
            best = [set(np.argsort(-m, kind="stable")[:6].tolist()) for m in (one, other)]
            assert row["top_overlap"] == len(best[0] & best[1]) / 6


def test_data_without_masks_has_no_region(tfa: Any) -> None:
    found = finished(tfa(name="maskless"))
    for row in found.table("tfa_map_scores").to_pylist():
        assert row["marked_area"] is row["marked_share"] is row["mass_ratio"] is None


@pytest.fixture(scope="module")
def certain(tfa: Any, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """A model that is certain beyond float32: where it is right the gradient is exactly zero."""
    path = tmp_path_factory.mktemp("certain") / "w.safetensors"
    model = Oracle(tfa(name="teacher", maps=[])).model.float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("output"):
                parameter *= 1e5
    path.write_bytes(save_weights(model))
    changes = {
        "model": {"arch": "mlp", "hidden": [12], "weights": str(path)},
        "scores": ["grad_cos", "random"],
        "maps": [PLAIN, {**PLAIN, "id": "dots", "of": "grad_dot"}, MAPS[2]],
        "queries": {"select": "misclassified"},
        "keep": "full",
        "insertion": {"levels": [0.5], "sides": ["helpful", "harmful"]},
    }
    return Oracle(tfa(name="certain", **changes))


def test_a_zero_gradient_has_a_cosine_of_zero_and_no_map(certain: Oracle) -> None:
    model = certain.model.float()
    logits = model(certain.train.x)
    right = (logits.argmax(1) == certain.train.labels).numpy()
    assert 5 < right.sum() < 55
    scores = certain.scores("grad_cos")
    assert (scores[right] == 0).all()
    assert (scores[~right] != 0).any()
    pairs = rows_of(certain.run, "tfa_pairs")
    # Never a pair of a score of zero; of random numbers it may be.
    assert not any(right[p["train_row"]] for p in pairs if p["method"] == "grad_cos")
    rows = rows_of(certain.run, "tfa_map_scores")
    flat = [row for row in rows if right[row["train_row"]]]
    assert {row["method"] for row in flat} == {"random"}
    for row in flat:
        assert row["status"] == ("undefined" if row["map_method"] == "tfa" else "ok")
        if row["status"] == "undefined":
            assert row["error"] == "a gradient is zero, so the score has no derivative"
            numbers = ("total", "abs_total", "spearman", "top_overlap")
            assert all(row[name] is None for name in numbers)
        # There is no first map to be compared with.
        assert row["spearman"] is None
    assert all(row["status"] == "ok" for row in rows if not right[row["train_row"]])
    check_maps(certain.run, lambda row: row["status"] == "ok")
    tested = {(r["query"], r["train_row"], r["map_method"]) for r in of(certain, "tfa_insertion")}
    assert tested == {
        (r["query"], r["train_row"], r["map_method"]) for r in rows if r["status"] == "ok"
    }


def of(oracle: Oracle, table: str) -> list[dict[str, Any]]:
    return oracle.run.table(table).to_pylist()


def check_maps(found: Run, has_map: Callable[[dict[str, Any]], bool]) -> None:
    """A map stands there where its status is ok, and nowhere else."""
    for row in found.table("tfa_maps").to_pylist():
        assert (row["map"] is not None) == has_map(row)
        assert (row["height"] is not None) == has_map(row)


def test_the_record_counts_undefined_scores(certain: Oracle) -> None:
    right = (certain.model(certain.train.x.to(next(certain.model.parameters()))).argmax(1)) == (
        certain.train.labels
    )
    records = [record for record in certain.run.commit.records if record.stage == "tda"]
    assert sum(record.extra["undefined"] for record in records) == 5 * int(right.sum())
    (record,) = [record for record in certain.run.commit.records if record.stage == "map"]
    assert record.extra["map_statuses"]["undefined"] > 0


def test_a_map_with_a_nan_is_no_map(tfa: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = training_maps.tfa_maps

    def spoilt(*args: Any, **options: Any) -> Any:
        found = honest(*args, **options)
        values = found.values.clone()
        values[0, 0, 3, 3] = torch.nan
        values[1, 0, 3, 3] = -torch.inf
        return replace(found, values=values)

    monkeypatch.setattr(training_maps, "tfa_maps", spoilt)
    found = finished(tfa(name="spoilt", maps=[PLAIN, {**PLAIN, "id": "again"}, MAPS[2]]))
    rows = found.table("tfa_map_scores").to_pylist()
    bad = [row for row in rows if row["status"] == "non_finite"]
    assert len(bad) == 4
    for row in bad:
        assert row["error"] == "the map has a NaN or an infinity"
        assert row["total"] is row["abs_total"] is row["spearman"] is None
    spoilt_pairs = {(row["query"], row["side"], row["rank"]) for row in bad}
    for row in rows:
        if row["map_method"] == "two_step":
            compared = (row["query"], row["side"], row["rank"]) not in spoilt_pairs
            assert (row["spearman"] is not None) == compared
            assert row["status"] == "ok"
    check_maps(found, lambda row: row["status"] == "ok")
    query, train_id = bad[0]["query"], bad[0]["train_id"]
    from gradattr.errors import UsageError

    with pytest.raises(UsageError, match="its status is 'non_finite'"):
        found.training_map(query, train_id)


def test_the_patch_of_encoded_images_is_resized_with_them(tfa: Any, tmp_path: Path) -> None:
    """Masks go through the same preprocessing as the images."""
    images = np.random.default_rng(0).integers(0, 255, (12, 16, 16), np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(12) % 10)
    data = {"format": "npz", "file": str(tmp_path / "d.npz"), "patch": {"size": 4}}
    train = {"data": {"format": "digits", "split": "train", "limit": 60}, "epochs": 1}
    found = finished(
        tfa(
            name="resized",
            data=data,
            preprocess={"mean": [0.3], "std": [0.4], "resize": [8, 8]},
            model={"arch": "mlp", "hidden": [12], "train": train},
        )
    )
    areas = found.table("tfa_map_scores")["marked_area"].to_pylist()
    assert areas
    assert set(areas) == {4 / 64}
