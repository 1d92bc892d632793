"""Thresholds, outcomes, devices, batch sizes: the small decisions of a task."""

from __future__ import annotations

from typing import Any

import pytest

from gradattr.errors import (
    IntegrityError,
    MethodError,
    ModelError,
    ShardError,
    StoreError,
    UsageError,
)
from gradattr.manifest.operation import Engine, Runtime
from gradattr.manifest.train import TrainManifest
from gradattr.work.acceptance import bad_rows_allowed, check_one_model
from gradattr.work.methods import method_requests, normalization
from gradattr.work.outcome import attempt
from gradattr.work.resources import choose_device


@pytest.mark.parametrize(
    ("limit", "rows", "allowed"),
    [(0, 1000, 0), (0.01, 1000, 10), (1, 1000, 1000), (2, 1000, 2), (50, 10, 50)],
)
def test_up_to_one_the_threshold_is_a_share(
    manifest: Any, limit: float, rows: int, allowed: float
) -> None:
    assert bad_rows_allowed(manifest(errors={"max": limit}), rows) == allowed


def test_training_allows_no_bad_row() -> None:
    model = {"arch": "linear", "train": {"data": "digits"}}
    value = {"kind": "train", "name": "t", "model": model}
    assert bad_rows_allowed(TrainManifest.model_validate(value), 100) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("gone"), "fatal"),
        (OSError(28, "No space left on device"), "fatal"),
        (ShardError("this one"), "failed"),
        (ValueError("a bug"), "failed"),
    ],
    ids=str,
)
def test_what_goes_wrong_becomes_an_outcome(error: Exception, status: str) -> None:
    def work() -> dict[str, Any]:
        raise error

    outcome = attempt("attribute", "00001", work)
    assert (outcome.status, outcome.key) == (status, "00001")
    assert str(error) in outcome.error
    assert "Traceback" in outcome.detail


def test_a_good_outcome_has_its_numbers() -> None:
    outcome = attempt("attribute", "00001", lambda: {"rows": 5, "bad_rows": 1})
    assert (outcome.status, outcome.rows, outcome.bad_rows) == ("ok", 5, 1)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UsageError, match="cuda:1: this process sees 0 CUDA devices"):
        choose_device(Engine(device="cuda:1"), Runtime())
    assert choose_device(Engine(), Runtime()).type == "cpu"


def test_on_ray_a_gpu_is_only_taken_when_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device(Engine(), Runtime()).type == "cpu"
    assert choose_device(Engine(), Runtime(gpus_per_task=0.5)).type == "cuda"
    assert choose_device(Engine(), Runtime(address="inline")).type == "cuda"


def test_parameters_that_the_mathematics_refuses_name_the_method(manifest: Any) -> None:
    blur = {"name": "integrated_gradients", "id": "mine", "baseline": {"kind": "blur", "kernel": 4}}
    with pytest.raises(MethodError, match=r"method 'mine': blur: kernel 4"):
        method_requests(manifest(methods=[blur]), {}.__getitem__, {}.__getitem__)


def test_black_is_what_normalisation_makes_of_it() -> None:
    from gradattr.manifest.data import Preprocess

    norm = normalization(Preprocess(mean=[0.5], std=[0.25]), channels=3)
    assert (norm.black, norm.white, norm.mean) == ((-2.0,) * 3, (2.0,) * 3, (0.0,) * 3)
    assert normalization(Preprocess(), channels=1).black == (0.0,)


def test_a_model_that_mixes_images_is_refused(manifest: Any) -> None:
    import torch

    from gradattr.work.context import RunContext
    from gradattr.work.modules import prepare_model

    mixing = torch.nn.Sequential(
        torch.nn.BatchNorm2d(1, track_running_stats=False),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    )
    context = RunContext(
        run_id="x-0",
        fingerprint="0",
        manifest_json=manifest().model_dump(mode="json"),
        shape=(1, 2, 2),
        num_classes=2,
        preprocess_json={},
        models=(),
        pools={},
    )
    with pytest.raises(ModelError, match="other images of the batch"):
        prepare_model(context, mixing, context.manifest.model, torch.device("cpu"))


def test_shards_of_different_weights_are_not_committed_together() -> None:
    one, other = {"models": {"model": "a" * 64}}, {"models": {"model": "b" * 64}}
    check_one_model("runs/x", [("model", {}), ("00000", one), ("00001", dict(one))])
    with pytest.raises(IntegrityError, match="shards 00000 and 00002"):
        check_one_model("runs/x", [("00000", one), ("00001", one), ("00002", other)])
