"""What a manifest of kind tfa is refused for before anything is written, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.errors import DataError, GradattrError, MethodError, ModelError, UsageError
from gradattr.work.planning.preflight import preflight
from gradattr.work.planning.prepare import make_plan, prepare
from tests.small_tfa import PLAIN, digits_npz, tfa, tfa_store

__all__ = ["tfa", "tfa_store"]

DIGITS = {"format": "digits", "split": "train", "limit": 60}
TRAINED = {"data": DIGITS, "test": None, "epochs": 1}
MODEL = {"arch": "mlp", "hidden": [12], "train": TRAINED}


def refused(tfa: Any, kind: type[GradattrError], words: str, **changes: Any) -> None:
    manifest = tfa(**changes)
    with pytest.raises(kind, match=words):
        preflight(prepare(manifest).context)
    assert not list(Path(manifest.store.url).glob("runs/*"))


def npz(path: Path, *, classes: int | None, shape: tuple[int, ...] = (8, 8)) -> dict[str, Any]:
    images = np.zeros((12, *shape), np.float32)
    arrays = {"images": images}
    if classes is not None:
        arrays["labels"] = np.arange(12) % classes
    np.savez(path, **arrays)
    return {"format": "npz", "file": str(path)} | ({} if classes else {"labels": None})


def test_training_data_without_labels(tfa: Any, tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", classes=None)
    refused(tfa, DataError, "the training data has no labels", data=data, model=MODEL)


@pytest.mark.parametrize("key", ["data", "queries.data"])
def test_more_classes_than_the_model_has_outputs(tfa: Any, tmp_path: Path, key: str) -> None:
    data = npz(tmp_path / "d.npz", classes=12)
    changes = {"data": data} if key == "data" else {"queries": {"data": data}}
    refused(tfa, DataError, rf"^{key}: 12 classes, .* 10 outputs", model=MODEL, **changes)


def test_images_of_another_size(tfa: Any, tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", classes=10, shape=(9, 7))
    words = "queries.data: images of 1x9x7, the training data has 1x8x8; set preprocess.resize"
    refused(tfa, DataError, words, model=MODEL, queries={"data": data})


def test_class_names_in_another_order(tfa: Any, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("one", "two"):
        (tmp_path / "q" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "q" / name / "a.png")
    data = {"format": "folder", "url": str(tmp_path / "q")}
    preprocess = {"mean": [0.3], "std": [0.4], "color": "gray"}
    changes = {"queries": {"data": data}, "preprocess": preprocess}
    words = "queries.data: label 0 is 'one', but in the model's training data it is '0'"
    refused(tfa, DataError, words, model=MODEL, **changes)


def test_targets_and_choices_that_need_labels(tfa: Any, tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", classes=None)
    for target in ("loss_true", "logit_true"):
        words = f"target {target} needs labels, and the query data has none; use loss_pred"
        refused(tfa, DataError, words, model=MODEL, queries={"data": data, "target": target})
    for more in ({"select": "correct"}, {"classes": [1]}, {"per_class": 2}):
        queries = {"data": data, "target": "loss_pred", **more}
        words = "select, classes and per_class need data with labels"
        refused(tfa, DataError, words, model=MODEL, queries=queries)
    prepare(tfa(model=MODEL, queries={"data": data, "target": "loss_pred"}))


def test_test_data_without_labels(tfa: Any, tmp_path: Path) -> None:
    data = digits_npz(tmp_path / "q.npz", range(8), labels=None)
    model = {**MODEL, "train": {"epochs": 1, "test": data}}
    queries = {"data": data, "target": "loss_pred"}
    words = "model.train.test: this data has no labels"
    refused(tfa, DataError, words, model=model, queries=queries)


def test_classes_that_the_data_does_not_have(tfa: Any, tmp_path: Path) -> None:
    refused(
        tfa, DataError, "has no class 'cat'; its classes are 0, 1", queries={"classes": ["cat"]}
    )
    words = r"classes 0 to 9, not 10"
    refused(tfa, DataError, words, queries={"classes": [3, 10]})
    data = npz(tmp_path / "d.npz", classes=10)
    queries = {"data": data, "classes": ["3"]}
    refused(tfa, DataError, "it has no class names", model=MODEL, queries=queries)


def test_a_two_step_method_that_the_data_cannot_have(tfa: Any) -> None:
    maps = [{"map": "two_step", "method": "gradient", "target": 10}]
    refused(tfa, GradattrError, "10", maps=maps)


def test_fills_that_do_not_fit_the_channels(tfa: Any) -> None:
    insertion = {"fill": [0.0, 0.0, 0.0]}
    words = "insertion.fill has 3 numbers, the model's input 1 channels"
    refused(tfa, DataError, words, insertion=insertion)


def test_parameters_and_layers_that_the_model_does_not_have(tfa: Any) -> None:
    words = "no parameter matches 'fc.*'"
    refused(tfa, MethodError, words, parameters=["fc.*"])
    maps = [{**PLAIN, "id": "deep", "layer": "conv9"}]
    words = "'deep': the model has no module 'conv9'; it has flatten, hidden1"
    refused(tfa, MethodError, words, maps=maps)


def test_weights_that_are_not_there(tfa: Any, tmp_path: Path) -> None:
    model = {"arch": "mlp", "hidden": [12], "weights": str(tmp_path / "no.safetensors")}
    with pytest.raises((ModelError, UsageError, GradattrError), match=r"no\.safetensors"):
        prepare(tfa(model=model))


def test_a_person_is_told_how_much_it_is(tfa: Any) -> None:
    notes = preflight(prepare(tfa(parameters=["output.*"])).context)
    text = "gradients in 130 parameters of 60 training examples for at most 5 queries"
    assert text in notes


def test_a_plan_names_every_task_once(tfa: Any) -> None:
    scores = [
        "grad_cos",
        {"score": "influence", "id": "a", "examples": 20},
        {"score": "relatif", "id": "b", "examples": 20, "damping": 1},
        {"score": "influence", "id": "c", "inverse": "cg"},
        {"score": "relatif", "id": "d", "inverse": "cg"},
    ]
    insertion: dict[str, Any] = {}
    plan = make_plan(
        tfa(scores=scores, query_block=2, map_queries=1, keep="full", insertion=insertion)
    )
    tasks = {stage.name: [task.key for task in stage.tasks] for stage in plan.stages}
    assert list(tasks) == [
        "train", "predict", "select", "curvature", "tda", "pair", "map", "summary",
    ]  # fmt: skip
    assert tasks["predict"] == ["00000", "00001"]
    # Scores share a fit; one by conjugate gradients is solved block by block.
    assert tasks["curvature"] == ["ekfac-20", "cg-03-0000", "cg-03-0001", "cg-03-0002"]
    assert tasks["tda"] == [f"{block:04d}-{shard:05d}" for block in range(3) for shard in range(3)]
    assert tasks["pair"] == ["0000", "0001", "0002"]
    assert tasks["map"] == [f"{query:06d}" for query in range(5)]
    tables = {stage.name: set(stage.tables) for stage in plan.stages}
    assert tables["tda"] == {"tda_extremes", "errors", "tda_scores"}
    assert tables["map"] == {"tfa_maps", "tfa_map_scores", "tfa_insertion"}
    few = make_plan(tfa(maps=[], keep="none", index={}))
    assert [stage.name for stage in few.stages] == ["train", "predict", "select", "tda", "pair"]
    assert "sketches" in few.stages[-2].tables
    assert set(few.stages[-1].tables) == {"tfa_pairs", "index_recall"}


def test_what_changes_the_run_and_what_does_not(tfa: Any) -> None:
    plain = make_plan(tfa()).run_id
    assert make_plan(tfa(runtime={"address": "local", "workers": 2})).run_id == plain
    for changes in (
        {"top": 4},
        {"keep": "full"},
        {"scores": ["grad_dot"]},
        {"parameters": ["output.*"]},
        {"queries": {"target": "loss_pred"}},
        {"queries": {"count": 4}},
        {"seed": 1},
    ):
        assert make_plan(tfa(**changes)).run_id != plain
