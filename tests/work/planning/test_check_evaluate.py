"""What an evaluation is refused for before anything is written, and what a person is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradattr.errors import DataError, GradattrError, ModelError, UsageError
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.work.planning.preflight import preflight
from gradattr.work.planning.prepare import prepare
from tests.small_evaluations import evaluation
from tests.small_runs import one_thread, weights

__all__ = ["evaluation", "one_thread", "weights"]

Make = Callable[..., EvaluateManifest]


def told(manifest: EvaluateManifest) -> list[str]:
    return preflight(prepare(manifest).context)


def refused(
    evaluation: Make,
    words: str,
    *metrics: Any,
    kind: type[GradattrError] = UsageError,
    **changes: Any,
) -> None:
    manifest = evaluation(*metrics, **changes)
    with pytest.raises(kind) as found:
        told(manifest)
    assert words in str(found.value)
    assert not list(Path(manifest.store.url).glob("runs/*"))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("path_monotonicity", "says nothing of gradient, random: it judges methods that follow"),
        ("baseline", "such as integrated_gradients, uni, blur_ig and guided_ig"),
        ("completeness", "claim that their map adds up"),
        ("stability", "walk a path in a number of steps"),
    ],
)
def test_metrics_of_no_method(evaluation: Make, metric: str, words: str) -> None:
    """One among others is told of; where there is no other there is nothing to judge."""
    methods = ["gradient", "random"]
    refused(evaluation, words, metric, methods=methods)
    (note,) = [one for one in told(evaluation(metric, "cost", methods=methods)) if words in one]
    assert note.startswith(f"metric '{metric}' says nothing of gradient, random")
    assert words not in str(told(evaluation(metric)))


def test_an_attack_along_derivatives_of_methods_that_have_none(evaluation: Make) -> None:
    attack = {"metric": "attack", "kind": "gradient"}
    words = (
        "metrics: 'attack' goes along the derivative of a map, and integrated_gradients, uni, "
        "random cannot be differentiated so: that is for gradient, saliency and input_x_gradient, "
        "without 'smooth'; set kind: random_sign"
    )
    refused(evaluation, words, attack)
    smooth = {"name": "gradient", "smooth": {"samples": 2}}
    refused(evaluation, "and gradient cannot be", attack, methods=[smooth])
    assert told(evaluation(attack, methods=["gradient", "saliency"]))


@pytest.mark.parametrize(
    "metric",
    ["attack", "stability", "randomisation", {"metric": "label_randomisation", "train": {
        "data": {"format": "digits", "limit": 20}, "epochs": 1}}],
)  # fmt: skip
def test_more_top_pixels_than_a_map_has(evaluation: Make, metric: Any) -> None:
    whole = {"metric": metric} if isinstance(metric, str) else metric
    refused(evaluation, "compares the top 65 pixels, and a map has 64", {**whole, "top": 65})
    assert told(evaluation({**whole, "top": 64}))


def test_numbers_of_steps_that_a_rule_does_not_have(evaluation: Make) -> None:
    methods = [{"name": "integrated_gradients", "steps": 8, "rule": "trapezoid"}]
    words = "metrics: 'stability' walks the path of integrated_gradients in 1 steps: "
    refused(evaluation, words, "stability", methods=methods)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (["outptu"], "names the module 'outptu', which the model does not have; did you mean"),
        (["zzzzz"], "does not have; it has output, hidden, conv3, conv2, conv1"),
        (["relu1"], "names the module 'relu1', which has no parameters; those that have are"),
        (["conv1", "output", "conv1"], "names conv1 more than once"),
    ],
)
def test_modules_that_cannot_be_randomised(
    evaluation: Make, modules: list[str], words: str
) -> None:
    refused(evaluation, words, {"metric": "randomisation", "modules": modules})


def test_every_fault_is_told_at_once(evaluation: Make) -> None:
    metrics = [{"metric": "attack", "top": 65}, {"metric": "randomisation", "modules": ["outptu"]}]
    with pytest.raises(UsageError) as found:
        told(evaluation(*metrics))
    assert len(str(found.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ({"metric": "mu_fidelity", "grid": 2, "share": 0.1}, "takes 0.1 of 4 cells, which is 0"),
        ({"metric": "road", "percentages": [99.5]}, "removes 99.5 % of 64 pixels"),
        ({"metric": "infidelity", "size": 9}, "moves a square of 9 pixels in images of 8x8"),
    ],
)
def test_parameters_that_small_images_cannot_have(
    evaluation: Make, metric: dict[str, Any], words: str
) -> None:
    refused(evaluation, words, metric)


def test_channels_of_maps_that_have_none(evaluation: Make, tmp_path: Path) -> None:
    path = tmp_path / "colour.npz"
    np.savez(path, images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))
    changes: dict[str, Any] = {
        "data": {"format": "npz", "file": str(path)},
        "model": {
            "arch": "linear",
            "train": {"data": {"format": "npz", "file": str(path)}, "epochs": 1},
        },
        "preprocess": {},
        "methods": ["gradient", {"name": "gradient", "id": "flat", "post": ["channel_sum"]}],
    }
    deletion = {"metric": "deletion", "per_pixel": False}
    words = "ranks every channel on its own, and flat have one value per pixel"
    refused(evaluation, words, deletion, **changes)
    assert told(evaluation(deletion, **changes | {"methods": ["gradient"]}))


@pytest.mark.parametrize(
    ("arrays", "kind", "words"),
    [
        ({"labels": None}, DataError, "its training data has no labels that could be permuted"),
        ({"classes": 12}, DataError, "its training data has 12 classes, the model 10 outputs"),
        ({"side": 9}, ModelError, "its training images are 1x9x9, the model's input is 1x8x8"),
    ],
)
def test_recipes_for_permuted_labels_that_do_not_fit(
    evaluation: Make, tmp_path: Path, arrays: dict[str, Any], kind: Any, words: str
) -> None:
    side, path = arrays.get("side", 8), tmp_path / "train.npz"
    images = np.zeros((24, side, side), np.uint8)
    labelled = {} if "labels" in arrays else {"labels": np.arange(24) % arrays.get("classes", 10)}
    np.savez(path, images=images, **labelled)
    data = {"format": "npz", "file": str(path)} | ({} if labelled else {"labels": None})
    metric = {"metric": "label_randomisation", "train": {"data": data, "epochs": 1}}
    refused(evaluation, words, metric, kind=kind)


def test_what_is_expensive_is_told(evaluation: Make) -> None:
    large = {"metric": "mu_fidelity", "subsets": 5000}
    (note,) = [note for note in told(evaluation(large, "deletion")) if "metric" in note]
    assert note.startswith("metric 'mu_fidelity' takes 5,000 of 5,")
    assert "with 'images' it looks at so many" in note
    assert not [n for n in told(evaluation({**large, "images": 5})) if "metric" in n]


def test_the_mean_of_images_that_are_not_normalised_is_told_to_be_black(evaluation: Make) -> None:
    metrics = ["deletion", "insertion", {"metric": "deletion", "id": "black", "fill": "black"}]
    notes = told(evaluation(*metrics, preprocess={}))
    assert "'mean' of deletion is black here: pre-processing subtracts no mean" in str(notes)
    assert "is black here" not in str(told(evaluation(*metrics)))


def test_another_training_is_told_of(evaluation: Make) -> None:
    recipe = {"data": {"format": "digits", "limit": 20}, "epochs": 7}
    notes = told(evaluation({"metric": "label_randomisation", "train": recipe}))
    words = "metric 'label_randomisation' trains another model, on permuted labels, for at most 7"
    assert any(note.startswith(words) for note in notes)
