"""Whole audits in this process, against plain loops over images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution import occlusion as notebook_occlusion
from gradattr.data.registry import index_data, load_all
from gradattr.errors import DataError, MethodError, ModelError
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.models import build_model, load_trained, read_trained
from gradattr.report.results import Run, open_run
from gradattr.retraining import train_classifier
from gradattr.retraining.ranks import LevelBins, kept_count
from gradattr.runtime.driver import run
from gradattr.storage.objects import open_store
from gradattr.work.diffroar.design import learners, trial_seeds, trials
from gradattr.work.planning.prepare import prepare
from gradattr.work.recipes import recipe_of
from tests.small_diffroar import TRAIN


def finished(manifest: DiffRoarManifest) -> Run:
    return open_run(run(manifest).uri)


def images(manifest: DiffRoarManifest, split: str) -> tuple[Tensor, Tensor]:
    spec = manifest.data if split == "train" else manifest.test
    batch = load_all(spec, index_data(spec), manifest.preprocess)
    return batch.x, batch.labels


def base_model(manifest: DiffRoarManifest, name: str) -> nn.Module:
    store = open_store(manifest.store)
    context = prepare(manifest).context
    trained = read_trained(store, context.model(name).digest)
    assert trained is not None
    spec = manifest.models[name]
    return load_trained(store, trained, spec, shape=context.shape, num_classes=context.num_classes)


def stored_bins(found: Run, scheme: str, split: str) -> np.ndarray:
    """(n, c, h, w) in the order of the images."""
    table = found.table("ranks")
    chosen = pc.and_(pc.equal(table["scheme"], scheme), pc.equal(table["split"], split))
    table = table.filter(chosen).combine_chunks().sort_by("row")
    assert table["row"].to_pylist() == list(range(table.num_rows))
    return np.concatenate([chunk.to_numpy_ndarray() for chunk in table["bins"].chunks])


def test_ranks_are_the_order_of_the_gradients_magnitude(audit: Any) -> None:
    manifest = audit(seeds=1, mask_only=False)
    found = finished(manifest)
    x, _ = images(manifest, "test")
    model = base_model(manifest, "standard").double().eval()
    bins = LevelBins(tuple(manifest.levels), 64)
    stored = stored_bins(found, "standard/saliency", "test").reshape(len(x), 64)
    for image, row in zip(x.double(), stored, strict=True):
        leaf = image[None].clone().requires_grad_(True)
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], leaf)
        magnitude = gradient.abs().flatten()
        for level in (0.1, 0.5):
            kept = torch.from_numpy(row < bins.top(level)[1])
            assert int(kept.sum()) == kept_count(64, level)
            # Nothing that is left out is larger than something kept, but for rounding.
            assert magnitude[kept].min() >= magnitude[~kept].max() - 1e-5 * magnitude.max()


@pytest.mark.parametrize("variant", ["retrain", "mask_only", "roar"])
def test_a_trial_equals_training_on_masked_copies(audit: Any, variant: str) -> None:
    mask = {"value": 0.2, "space": "pixels"}
    manifest = audit(seeds=1, roar=True, mask=mask)
    found = finished(manifest)
    rows = {row["trial"]: row for row in found.table("trials").to_pylist()}
    sets = {split: images(manifest, split) for split in ("train", "test")}
    bins = LevelBins(tuple(manifest.levels), 64)
    spec = learners(manifest)["standard"]
    assert spec.train is not None
    fill = (0.2 - 0.3) / 0.4
    chosen = [
        t for t in trials(manifest) if t.variant == variant and t.scheme == "standard/saliency"
    ]
    assert chosen
    for trial in chosen:
        masked = {}
        for split, (x, y) in sets.items():
            low, high = getattr(bins, trial.arm)(trial.level)
            of = torch.from_numpy(stored_bins(found, "standard/saliency", split))
            kept = (of >= low) & (of < high)
            copy = kept.float() if variant == "mask_only" else torch.where(kept, x, fill)
            masked[split] = copy, y
        weights, order = trial_seeds(manifest, trial)
        model = build_model(spec, shape=(1, 8, 8), num_classes=10, seed=weights)
        recipe = recipe_of(spec.train, manifest.preprocess, 1, seed=order)
        result = train_classifier(model, *masked["train"], recipe, test=masked["test"])
        assert rows[trial.key]["accuracy"] == result.last_epoch_test_accuracy
        assert rows[trial.key]["train_loss"] == result.last_epoch_loss
        assert rows[trial.key]["best_accuracy"] == result.best_epoch_test_accuracy


def test_scores_follow_from_the_trials(audit: Any) -> None:
    found = finished(audit())
    trials_ = found.table("trials").to_pylist()

    def accuracy(scheme: str, level: float, arm: str, seed: int) -> float:
        order = None if level == 1 else scheme
        (one,) = [
            t["accuracy"]
            for t in trials_
            if (t["scheme"], t["level"], t["arm"], t["seed"]) == (order, level, arm, seed)
            and t["variant"] == "retrain"
        ]
        return float(one)

    rows = [row for row in found.table("diffroar").to_pylist() if row["variant"] == "retrain"]
    assert len(rows) == 3 * 3
    for row in rows:
        differences = [
            accuracy(row["scheme"], row["level"], "top", seed)
            - accuracy(row["scheme"], row["level"], "bottom", seed)
            for seed in (0, 1)
        ]
        assert row["diffroar"] == pytest.approx(np.mean(differences), abs=1e-12)
        assert row["sd"] == pytest.approx(np.std(differences, ddof=1), abs=1e-12)
        assert row["n"] == 2


def test_paired_in_everything_the_noise_floor_is_zero(audit: Any) -> None:
    found = finished(audit(paired="all", mask_only=False, baselines=[]))
    (floor,) = [row for row in found.table("diffroar").to_pylist() if row["level"] == 1]
    assert (floor["diffroar"], floor["sd"], floor["verdict"]) == (0, 0, "floor")


def test_without_retraining_the_base_model_is_tested_on_masked_images(audit: Any) -> None:
    manifest = audit(retrain=False, baselines=["random"])
    found = finished(manifest)
    x, y = images(manifest, "test")
    model = base_model(manifest, "standard")
    bins = LevelBins(tuple(manifest.levels), 64)
    of = torch.from_numpy(stored_bins(found, "standard/saliency", "test"))
    for row in found.table("trials").to_pylist():
        if row["scheme"] != "standard/saliency":
            continue
        low, high = getattr(bins, row["arm"])(row["level"])
        masked = torch.where((of >= low) & (of < high), x, 0)
        with torch.no_grad():
            right = (model(masked).argmax(dim=1) == y).double().mean()
        assert row["accuracy"] == pytest.approx(float(right), abs=1e-12)
        assert row["seed"] is None
    assert set(found.table("ranks")["split"].to_pylist()) == {"test"}


def test_per_pixel_masks_all_channels_of_a_pixel_together(audit: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {}
    for split, n in (("train", 60), ("test", 40)):
        files[split] = str(tmp_path / f"{split}.npz")
        labels = rng.integers(0, 2, n)
        pixels = rng.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8)
        np.savez(files[split], images=pixels, labels=labels)
    value = {
        "data": {"format": "npz", "file": files["train"]},
        "test": {"format": "npz", "file": files["test"]},
        "preprocess": {},
        "mask_only": False,
        "seeds": 1,
    }
    found = finished(audit(**value, mask={"per_pixel": True, "value": [0.1, 0.2, 0.3]}))
    assert stored_bins(found, "random", "train").shape == (60, 1, 4, 4)
    kept = {row["level"]: row["kept"] for row in found.table("trials").to_pylist()}
    assert kept == {0.1: kept_count(16, 0.1), 0.5: 8, 1.0: 16}
    with pytest.raises(MethodError, match=r"mask\.value has 2 numbers"):
        run(audit(**value, mask={"value": [0.1, 0.2]}))


def test_maps_with_one_value_per_pixel_rank_its_channels_together(
    audit: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    file = str(tmp_path / "images.npz")
    pixels = rng.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(file, images=pixels, labels=np.arange(12) % 2)
    data = {"format": "npz", "file": file}
    occlusion = {"name": "occlusion", "window": 1, "stride": 1}
    manifest = audit(
        data=data,
        test=data,
        preprocess={},
        models={"standard": {"arch": "cnn", "width": 2, "train": {**TRAIN, "epochs": 1}}},
        # Of Grad-CAM some maps are 0 everywhere: no reason to end an audit.
        methods=[occlusion, "grad_cam"],
        baselines=[],
        levels=[0.5, 1.0],
        retrain=False,
    )
    found = finished(manifest)
    x, _ = images(manifest, "test")
    model = base_model(manifest, "standard")
    maps = notebook_occlusion(model, x, window=1, stride=1, baseline=0.0).maps
    bins = stored_bins(found, "standard/occlusion", "test")
    assert bins.shape == (12, 3, 8, 8)
    assert stored_bins(found, "standard/grad_cam", "test").shape == (12, 3, 8, 8)
    top = LevelBins(tuple(manifest.levels), 192).top(0.5)
    for one, ranks in zip(maps.abs(), bins, strict=True):
        best = one.flatten().argsort(descending=True)[:32]
        kept = (ranks >= top[0]) & (ranks < top[1])
        assert (kept == kept[:1]).all()
        assert set(np.flatnonzero(kept[0])) == set(best.tolist())


def test_the_same_command_again_is_complete(audit: Any) -> None:
    manifest = audit(seeds=1, mask_only=False)
    assert not run(manifest).already_complete
    assert run(manifest).already_complete


def test_lost_trials_are_done_again_and_nothing_else_changes(audit: Any, tmp_path: Path) -> None:
    manifest = audit(seeds=1, mask_only=False)
    first = run(manifest)
    before = open_run(first.uri).table("trials")
    root = Path(first.uri.removeprefix("file://"))
    for key in ("_COMMIT.json", "shards/score/scores.json"):
        (root / key).unlink()
    lost = sorted((root / "shards" / "trial").iterdir())[3:6]
    for record in lost:
        record.unlink()
    done = []
    run(manifest, listener=lambda event: done.append(event.key) if event.kind == "shard" else None)
    assert done == [record.stem for record in lost] + ["scores"]
    assert open_run(first.uri).table("trials").equals(before)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"test": {"format": "blockmnist", "split": "test"}}, DataError, "test: images of"),
        (
            {
                "models": {
                    "a": {"arch": "mlp", "hidden": [8], "train": TRAIN},
                    "b": {"arch": "mlp", "hidden": [8], "num_classes": 12, "train": TRAIN},
                }
            },
            ModelError,
            "models.b has 12 classes",
        ),
        ({"target": 10}, MethodError, "the model has classes 0 to 9"),
        (
            {"test": {"format": "digits", "split": "test", "classes": list("abcdefghij")}},
            DataError,
            "label 0 is 'a'",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told_before_anything_is_written(
    audit: Any, tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(audit(**changes))
    assert not (tmp_path / "store" / "runs").exists()


def test_the_best_and_the_worst_order_frame_every_other(audit: Any) -> None:
    """On BlockMNIST half of the coordinates carry everything: whoever keeps the signal first scores
    as high as possible, whoever keeps it last as low."""
    blocks = {"format": "blockmnist", "digits": [0, 1]}
    found = finished(
        audit(
            data={**blocks, "split": "train"},
            test={**blocks, "split": "test"},
            preprocess={},
            models={
                "mlp": {
                    "arch": "mlp",
                    "hidden": [32],
                    "train": {"epochs": 15, "lr": 0.05, "batch_size": 32},
                }
            },
            baselines=["random", "signal_first", "null_first"],
            levels=[0.2, 0.5, 1.0],
            seeds=3,
            mask_only=False,
        )
    )
    score = {(row["scheme"], row["level"]): row for row in found.table("diffroar").to_pylist()}
    for level in (0.2, 0.5):
        best, worst = score["signal_first", level], score["null_first", level]
        assert best["verdict"] == "satisfies"
        assert worst["verdict"] == "violates"
        assert best["diffroar"] > 0.3
        print(found.sql("select scheme,level,arm,mean,sd from pred_power").to_pandas())
        # Equally: but for chance, which 70 test images leave some room.
        assert best["diffroar"] == pytest.approx(-worst["diffroar"], abs=0.2)
        assert score["random", level]["verdict"] == "undecided"
        assert abs(score["random", level]["diffroar"]) < 0.1
    assert score["signal_first", 1.0]["verdict"] == "floor"
