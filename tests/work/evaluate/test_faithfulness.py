"""Metrics that change images, in whole runs: they are what a direct call of the mathematics finds,
however the images are shared out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gradattr.attribution import Black, Blur, Normalization, attribute
from gradattr.attribution.reference_points import reference_points
from gradattr.attribution.tuning import mixed
from gradattr.errors import UsageError
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.metrics.deletion_insertion import deletion, insertion
from gradattr.metrics.infidelity import GaussianPerturbation, SquarePatch, infidelity
from gradattr.metrics.mu_fidelity import mu_fidelity
from gradattr.metrics.road import road
from gradattr.models import save_weights
from gradattr.models.simple import linear as linear_model
from gradattr.report.results import Run
from gradattr.report.summary import summarise
from gradattr.work.planning import check_evaluate
from gradattr.work.planning.preflight import preflight
from gradattr.work.planning.prepare import prepare
from tests.small_evaluations import PREPROCESS, Direct, direct, evaluation, finished, scores
from tests.small_runs import one_thread, weights
from tests.small_tfa import digits_npz

__all__ = ["evaluation", "one_thread", "weights"]

Make = Callable[..., EvaluateManifest]

FORWARD: list[Any] = [
    {"metric": "deletion", "steps": 5},
    {"metric": "deletion", "id": "rough", "steps": 7, "fill": "black", "rank": "magnitude"},
    {"metric": "deletion", "id": "each", "steps": 4, "fill": 0.5, "score": "logit"},
    {"metric": "insertion", "steps": 5, "kernel": 5, "sigma": 2.0},
    {"metric": "insertion", "id": "from_black", "steps": 3, "start": "black", "per_pixel": False},
    {"metric": "mu_fidelity", "subsets": 20, "grid": 4},
    {"metric": "mu_fidelity", "id": "blurred", "subsets": 15, "fill": "blur", "score": "logit"},
    {"metric": "road", "percentages": [20, 50], "noise": 0.05},
    {"metric": "infidelity", "samples": 9, "noise": 0.1},
    {"metric": "infidelity", "id": "squares", "samples": 8, "perturbation": "square", "size": 3},
]
"""Every metric, with some of every parameter."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> EvaluateManifest:
    make = evaluation.__wrapped__(tmp_path_factory.mktemp("faithful"), weights)  # type: ignore[attr-defined]
    return make(*FORWARD)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def found(shared: EvaluateManifest) -> Run:
    return finished(shared)


class _Answers:
    """The same by direct calls, for the manifest's methods."""

    def __init__(self, manifest: EvaluateManifest) -> None:
        self.by: Direct = direct(manifest)
        self.made = attribute(
            self.by.evaluator, self.by.x, self.by.requests, **self.by.settings, batch_size=3
        )
        self.names = [one.method for one in self.made]
        self.maps = [one.maps for one in self.made]
        self.index = self.made[0].index

    def asked(self, **more: Any) -> dict[str, Any]:
        return {"seeds": self.by.seeds, "batch_size": 3, **more}

    def call(self, function: Callable[..., Any], **more: Any) -> Any:
        by = self.by
        return function(by.evaluator, by.x, self.maps, self.index, **self.asked(**more))


@pytest.fixture(scope="module")
def answers(shared: EvaluateManifest) -> _Answers:
    return _Answers(shared)


def check(
    found: Run, names: list[str], metric: str, expected: list[Tensor], error: float = 1e-6
) -> None:
    values = scores(found)
    for name, one in zip(names, expected, strict=True):
        assert values[metric, name] == pytest.approx(one.numpy(), rel=1e-5, abs=error, nan_ok=True)


def rows_of(found: Run) -> dict[tuple[int, str, str], tuple[str, float]]:
    """(row, method, metric) -> status and value, NaN where there is none."""
    return {
        (one["row"], one["method"], one["metric"]): (
            one["status"],
            np.nan if one["value"] is None else one["value"],
        )
        for one in found.table("scores").to_pylist()
    }


def alike(one: tuple[str, float], other: tuple[str, float]) -> bool:
    close = np.isclose(one[1], other[1], rtol=1e-5, atol=1e-6, equal_nan=True)
    return one[0] == other[0] and bool(close)


def curve(found: Run, name: str, method: str) -> np.ndarray:
    frame = found.frame("sample_curves").sort_values("row")
    chosen = frame[(frame["curve"] == name) & (frame["method"] == method)]
    return np.stack([np.asarray(one, np.float64) for one in chosen["values"]])


def test_deletion_and_insertion(found: Run, answers: _Answers) -> None:
    black = Black().draw(answers.by.x[:1], [0], 0, answers.by.normalization)[:, :, :1, :1]
    start = Blur(5, 2.0).draw(answers.by.x, answers.by.seeds, 0, Normalization())
    expected = {
        "deletion": answers.call(deletion, steps=5),
        "rough": answers.call(deletion, steps=7, fill=black, rank="magnitude"),
        "each": answers.call(deletion, steps=4, fill=0.5, score="logit"),
        "insertion": answers.call(insertion, steps=5, start=start),
        "from_black": answers.call(insertion, steps=3, start=black, per_pixel=False),
    }
    for metric, curves in expected.items():
        check(found, answers.names, f"{metric}_auc", [one.auc for one in curves])
        for name, one in zip(answers.names, curves, strict=True):
            assert curve(found, metric, name) == pytest.approx(one.values.numpy(), abs=1e-5)


def test_mu_fidelity(found: Run, answers: _Answers) -> None:
    blurred = Blur(11, 5.0).draw(answers.by.x, answers.by.seeds, 0, Normalization())
    expected = {
        "mu_fidelity": answers.call(mu_fidelity, subsets=20, grid=4),
        "blurred": answers.call(mu_fidelity, subsets=15, fill=blurred, score="logit"),
    }
    for metric, parts in expected.items():
        for kind in ("pearson", "spearman"):
            signed = [getattr(one, kind) for one in parts]
            # Of differences between logits that are nearly the same in float32.
            check(found, answers.names, f"{metric}_{kind}_signed", signed, error=5e-6)
            unsigned = [one.abs() for one in signed]
            check(found, answers.names, f"{metric}_{kind}", unsigned, error=5e-6)


def test_road(found: Run, answers: _Answers) -> None:
    expected = answers.call(road, labels=answers.by.labels, percentages=[20, 50], noise=0.05)
    check(found, answers.names, "road_score", [one.score for one in expected])
    for name, one in zip(answers.names, expected, strict=True):
        for place, part in (
            ("morf", one.morf),
            ("lerf", one.lerf),
            ("morf_accuracy", one.morf_correct),
            ("lerf_accuracy", one.lerf_correct),
        ):
            assert curve(found, f"road_{place}", name) == pytest.approx(part.numpy(), abs=1e-5)


def test_infidelity_judges_contributions_against_what_they_are_against(
    found: Run, answers: _Answers
) -> None:
    by = answers.by
    own = by.requests[1:3]  # integrated gradients and UNI; a gradient and random maps are slopes
    points = reference_points(by.evaluator, by.x, own, **by.settings)
    given = {"references": [None, *points, None], "normalization": by.normalization}
    gaussian = answers.call(infidelity, samples=9, perturbation=GaussianPerturbation(0.1), **given)
    squares = answers.call(infidelity, samples=8, perturbation=SquarePatch(3), **given)
    for metric, expected in (("infidelity", gaussian), ("squares", squares)):
        check(found, answers.names, metric, [one.infidelity for one in expected])
        check(found, answers.names, f"{metric}_scaled", [one.scaled for one in expected])
    assert float(points[1].sub(by.x).flatten(1).norm(dim=1).max()) < 0.26  # UNI's own: next to x


@pytest.mark.parametrize(("shard_rows", "batch_size"), [(1, 1), (4, 5), (100, 64)])
def test_nothing_depends_on_shards_or_batches(
    shared: EvaluateManifest, found: Run, shard_rows: int, batch_size: int
) -> None:
    engine = shared.engine.model_copy(update={"batch_size": batch_size})
    other = finished(
        shared.model_copy(update={"shard_rows": shard_rows, "engine": engine, "name": "other"})
    )
    here, there = scores(found), scores(other)
    assert here.keys() == there.keys()
    for key, values in here.items():
        assert there[key] == pytest.approx(values, rel=2e-5, abs=2e-6, nan_ok=True), key


def test_a_subset_of_images_is_judged_as_among_all(evaluation: Make, found: Run) -> None:
    some = [{**metric, "images": 3} for metric in FORWARD]
    chosen, everything = rows_of(finished(evaluation(*some))), rows_of(found)
    assert len({row for row, _, _ in chosen}) == 3
    assert all(alike(score, everything[key]) for key, score in chosen.items())


@pytest.fixture
def linear(tmp_path: Path) -> dict[str, Any]:
    """What a manifest says of a linear model of digits that nobody trained, without biases."""
    path = tmp_path / "linear.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = linear_model((1, 8, 8), 10)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.zeros_(parameter)
    path.write_bytes(save_weights(model))
    return {
        "model": {"arch": "linear", "weights": str(path)},
        "data": {"format": "digits", "limit": 40},
    }


def test_on_a_linear_model(evaluation: Make, linear: dict[str, Any]) -> None:
    """The true contributions are perfectly faithful by every metric, random ones by none."""
    mean = {"name": "integrated_gradients", "baseline": "mean", "steps": 4}
    reverse = {**mean, "id": "reverse", "post": ["negate"]}
    random = [{"name": "random", "id": f"random{number}"} for number in range(3)]
    logit = {"score": "logit"}
    values = scores(
        finished(
            evaluation(
                {"metric": "mu_fidelity", "subsets": 100, **logit},
                {"metric": "deletion", **logit},
                {"metric": "insertion", "start": "mean", **logit},
                {"metric": "infidelity", "samples": 10, **logit},
                {"metric": "infidelity", "id": "squares", "perturbation": "square", **logit},
                methods=[mean, reverse, *random, "gradient"],
                **linear,
            )
        )
    )
    true, opposite = "integrated_gradients", "reverse"
    assert values["mu_fidelity_pearson_signed", true].min() > 1 - 1e-6
    assert values["mu_fidelity_pearson_signed", opposite].max() < -1 + 1e-6
    for name in ("random0", "random1", "random2"):
        assert abs(values["mu_fidelity_pearson_signed", name].mean()) < 0.1
        assert (values["deletion_auc", true] < values["deletion_auc", name]).all()
        assert (values["insertion_auc", true] > values["insertion_auc", name]).all()
        assert (values["infidelity", name] > 100 * values["infidelity", true] + 1e-4).all()
    for metric in ("infidelity", "squares"):
        assert values[metric, true].max() < 1e-9
        assert values[metric, "gradient"].max() < 1e-9
    # Of the two rankings one loses what the other has gained: symmetric about (f(x) + f(0)) / 2.
    for metric in ("deletion_auc", "insertion_auc"):
        middle = (values[metric, true] + values[metric, opposite]) / 2
        chance = np.stack([values[metric, f"random{number}"] for number in range(3)]).mean(0)
        assert abs((middle - chance).mean()) < 0.3 * abs(middle - values[metric, true]).mean()


#: Row 3 has a NaN, row 8 pixels too large for the model, rows 5 and 7 no label, row 6 one colour.
BAD = {3: "decode_error", 8: "non_finite"}
UNLABELLED, BLANK = (5, 7), 6


def _digits(folder: Path, name: str, damaged: bool) -> dict[str, Any]:
    digits = load_digits()
    images = (digits.images[:10] / 16).astype(np.float32)
    labels = digits.target[:10].copy()
    images[BLANK] = PREPROCESS["mean"][0]
    if damaged:
        images[3, 2, 2] = np.nan
        images[8] = 3e38
        labels[list(UNLABELLED)] = -1
    return digits_npz(folder / name, range(10), labels=labels, images=images)


def test_bad_rows_missing_labels_and_maps_without_a_value(evaluation: Make, tmp_path: Path) -> None:
    """Each has its status, and changes nothing about the other images."""
    true = {"name": "gradient", "id": "true", "target": "logit_true"}
    methods = ["input_x_gradient", true, "random"]
    metrics = [
        {"metric": "deletion", "steps": 3},
        {"metric": "mu_fidelity", "subsets": 6},
        {"metric": "road", "percentages": [30]},
        {"metric": "infidelity", "samples": 4},
    ]
    given, runs = {}, {}
    for name, damaged in (("whole", False), ("damaged", True)):
        data = _digits(tmp_path, f"{name}.npz", damaged)
        changes = {"methods": methods, "errors": {"max": 4}, "shard_rows": 4}
        given[name] = evaluation(*metrics, data=data, name=name, **changes)
        runs[name] = finished(given[name])
    whole, others = rows_of(runs["whole"]), rows_of(runs["damaged"])
    assert whole.keys() == others.keys()
    for (row, method, metric), found in others.items():
        unlabelled = row in UNLABELLED and method == "true"
        wrong = BAD.get(row) or ("label_error" if unlabelled else None)
        expected = (wrong, np.nan) if wrong else whole[row, method, metric]
        assert alike(found, expected), (row, method, metric)
    # A map of zeros ranks pixels at random, but neither predicts anything nor correlates.
    blank = {metric: whole[BLANK, "input_x_gradient", metric][0] for _, _, metric in whole}
    assert blank["deletion_auc"] == blank["road_score"] == "ok"
    assert blank["mu_fidelity_spearman"] == blank["infidelity_scaled"] == "undefined"
    # That its class stays counts as right where there is no label.
    by = direct(given["whole"])
    (random,) = attribute(by.evaluator, by.x, by.requests[2:], **by.settings)
    asked: dict[str, Any] = {"seeds": by.seeds, "percentages": [30], "batch_size": 8}
    (removed,) = road(by.evaluator, by.x, [random.maps], random.index, **asked)
    for place, values in (("morf", removed.morf_correct), ("lerf", removed.lerf_correct)):
        lines = runs["damaged"].table("sample_curves").to_pylist()
        own = {
            line["row"]: line["values"]
            for line in lines
            if (line["curve"], line["method"]) == (f"road_{place}_accuracy", "random")
        }
        assert [own[row] for row in UNLABELLED] == values[list(UNLABELLED)].tolist()


def test_bfloat16_is_close_and_says_how_close(evaluation: Make, found: Run) -> None:
    """Of convolutions: what is measured on the sample is the difference of two whole runs."""
    if mixed.bfloat16_obstacle(torch.device("cpu")) is not None:
        with pytest.raises(UsageError, match="asks for precision bf16, but the CPU has no bfloat"):
            preflight(prepare(evaluation({"metric": "deletion", "precision": "bf16"})).context)
        return
    fast = finished(evaluation(*({**metric, "precision": "bf16"} for metric in FORWARD)))
    exact, there = scores(found), scores(fast)
    records = [record for record in fast.commit.records if record.stage == "judge"]
    assert len(records) == 2
    names = {metric for metric, _ in exact}
    for name in names:
        largest = max(np.nanmax(np.abs(exact[key] - there[key])) for key in exact if key[0] == name)
        told = [record.extra["precision_change"][name] for record in records]
        assert [one["images"] for one in told] == [6, 1]
        assert 0 < max(one["largest"] for one in told) == pytest.approx(largest, rel=1e-3, abs=1e-6)
        assert all(0 <= one["mean"] <= one["largest"] for one in told)
    for metric in ("deletion_auc", "insertion_auc", "from_black_auc", "road_score"):
        assert all(np.abs(exact[k] - there[k]).max() < 0.01 for k in exact if k[0] == metric)
    # Gradients of mixed precision beside it: those layers are not for such passes.
    engine = {"precision": "mixed"}
    beside = scores(finished(evaluation(FORWARD[0] | {"precision": "bf16"}, engine=engine)))
    for method in ("gradient", "integrated_gradients"):
        auc = ("deletion_auc", method)
        assert beside[auc] == pytest.approx(there[auc], abs=0.02)
    (note,) = [note for note in summarise(fast)["notes"] if "bf16" in note]
    assert all(name in note for name in names)


def test_bfloat16_that_the_machine_lacks_is_refused(
    evaluation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_evaluate, "bfloat16_obstacle", lambda device: "it is too old")
    fast = {"metric": "road", "precision": "bf16"}
    with pytest.raises(UsageError, match="metrics: 'road' asks for precision bf16, but it is too"):
        preflight(prepare(evaluation(fast)).context)
    assert preflight(prepare(evaluation("road")).context)
    elsewhere = evaluation(fast, runtime={"address": "ray://head:10001"})
    assert preflight(prepare(elsewhere).context)  # the workers' machines are not known here
