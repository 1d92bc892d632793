"""Weights by URL and by run: found, identified, and refused when they are others."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from gradattr.errors import IntegrityError, ModelError, UsageError
from gradattr.models import (
    build_model,
    load_model,
    read_trained,
    save_weights,
    weights_digest,
    write_trained,
)
from gradattr.retraining import EpochResult, TrainResult
from gradattr.storage.commit import commit_run
from gradattr.storage.run_json import create_run
from gradattr.storage.shards import ShardWriter

SHAPE = (1, 8, 8)
RESULT = TrainResult((EpochResult(1, 0.5, 0.9, 0.1),), "epochs")


@pytest.fixture
def weights_file(make_spec, tmp_path):
    """A weights file of a linear model with 3 classes."""
    model = build_model(make_spec("linear"), shape=SHAPE, num_classes=3, seed=7)
    path = tmp_path / "linear.safetensors"
    path.write_bytes(save_weights(model))
    return path


def load(spec, store=None, classes=3, **options):
    return load_model(spec, store, shape=SHAPE, num_classes=classes, **options)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_weights_from_a_url(make_spec, weights_file, scheme):
    spec = make_spec("linear", weights=f"{scheme}{weights_file}")
    expected = build_model(spec, shape=SHAPE, num_classes=3, seed=7)
    model = load(spec)
    assert torch.equal(model.output.weight, expected.output.weight)
    assert not model.training
    assert weights_digest(spec, None) == hashlib.sha256(weights_file.read_bytes()).hexdigest()


def test_missing_file_is_a_usage_error(make_spec, tmp_path):
    spec = make_spec("linear", weights=str(tmp_path / "none.safetensors"))
    for use in (lambda: weights_digest(spec, None), lambda: load(spec)):
        with pytest.raises(UsageError, match=r"none\.safetensors: there is no such file"):
            use()


def test_sha256_of_the_manifest_is_checked(make_spec, weights_file):
    good = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    load(make_spec("linear", weights=str(weights_file), sha256=good))
    other = make_spec("linear", weights=str(weights_file), sha256="ab" * 32)
    for use in (lambda: weights_digest(other, None), lambda: load(other)):
        with pytest.raises(ModelError, match=f"its sha256 is {good}, model.sha256 says abab"):
            use()


def test_weights_that_changed_after_planning_are_refused(make_spec, weights_file):
    spec = make_spec("linear", weights=str(weights_file))
    planned = weights_digest(spec, None)
    load(spec, expected_digest=planned)
    changed = build_model(spec, shape=SHAPE, num_classes=3, seed=8)
    weights_file.write_bytes(save_weights(changed))
    with pytest.raises(ModelError, match="changed after the run was planned"):
        load(spec, expected_digest=planned)


def test_source_of_a_factory_is_part_of_the_identity(make_spec, user_module, tmp_path):
    path = tmp_path / "w.safetensors"
    spec = make_spec(f"python:{user_module}:small", weights=str(path))
    model = build_model(spec, shape=(3, 4, 4), num_classes=3, seed=0)
    path.write_bytes(save_weights(model))
    planned = weights_digest(spec, None)
    load_model(spec, None, shape=(3, 4, 4), num_classes=3, expected_digest=planned)
    source = tmp_path / f"{user_module}.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert weights_digest(spec, None) != planned
    with pytest.raises(ModelError, match="changed after the run was planned"):
        load_model(spec, None, shape=(3, 4, 4), num_classes=3, expected_digest=planned)


def test_wrong_number_of_classes(make_spec, weights_file):
    spec = make_spec("linear", weights=str(weights_file))
    with pytest.raises(ModelError, match="with 3 classes, 10 are expected"):
        load(spec, classes=10)


def test_model_that_is_to_be_trained_has_no_weights(make_spec, train_block):
    with pytest.raises(ModelError, match="it is to be trained"):
        weights_digest(make_spec("linear", train=train_block), None)


def commit_training(store, extras, run_id="train-1234abcd"):
    """A committed run whose train stage kept these extras."""
    run = {
        "run_id": run_id,
        "fingerprint": "f" * 64,
        "stages": [
            {
                "name": "train",
                "tables": [],
                "expected_rows": {},
                "shards": [[f"m{number}", 10] for number in range(len(extras))],
            }
        ],
    }
    create_run(store, run)
    for number, extra in enumerate(extras):
        writer = ShardWriter(store, run_id, "f" * 64, "train", f"m{number}")
        writer.finish(rows=10, row_ids=None, extra=extra)
    commit_run(store, run)
    return f"run:{run_id}"


@pytest.fixture
def trained(make_spec, store):
    """A trained linear model in the store."""
    spec = make_spec("linear")
    model = build_model(spec, shape=SHAPE, num_classes=3, seed=5)
    return model, write_trained(store, "ab" * 32, model, spec, SHAPE, 3, RESULT)


def test_weights_of_another_run(make_spec, store, trained):
    model, record = trained
    other = {"role": "linear:control", "model": {"digest": "d", "key": "k", "sha256": "s"}}
    weights = commit_training(store, [other, {"role": "model", "model": record.reference()}])
    spec = make_spec("linear", weights=weights)
    assert weights_digest(spec, store) == record.sha256
    loaded = load(spec, store, expected_digest=record.sha256)
    assert torch.equal(loaded.output.weight, model.output.weight)


def test_run_that_trained_nothing(make_spec, store):
    spec = make_spec("linear", weights=commit_training(store, [{"counts": {}}]))
    with pytest.raises(ModelError, match="the run 'train-1234abcd' trained no model"):
        weights_digest(spec, store)


def test_run_that_does_not_exist(make_spec, store):
    spec = make_spec("linear", weights="run:nothing-12345678")
    with pytest.raises(UsageError, match="does not exist or is not complete"):
        weights_digest(spec, store)
    with pytest.raises(ModelError, match="names a run, but there is no store"):
        weights_digest(spec, None)


def test_record_of_a_run_that_names_no_file(make_spec, store):
    extra = {"role": "model", "model": {"digest": "ab", "key": "k"}}
    spec = make_spec("linear", weights=commit_training(store, [extra]))
    with pytest.raises(IntegrityError, match="names a model without 'sha256'"):
        weights_digest(spec, store)


def test_commit_that_was_edited_is_not_believed(make_spec, store, trained):
    _, record = trained
    weights = commit_training(store, [{"role": "model", "model": record.reference()}])
    path = store.local_path("runs/train-1234abcd/_COMMIT.json")
    value = json.loads(path.read_bytes())
    value["shards"][0]["extra"]["model"]["sha256"] = "0" * 64
    path.write_text(json.dumps(value))
    with pytest.raises(IntegrityError):
        weights_digest(make_spec("linear", weights=weights), store)


def test_weights_of_a_run_that_are_others_or_gone(make_spec, store, trained):
    _, record = trained
    spec = make_spec(
        "linear",
        weights=commit_training(store, [{"role": "model", "model": record.reference()}]),
    )
    path = store.local_path(record.key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert read_trained(store, "ab" * 32) is not None
    with pytest.raises(IntegrityError, match=rf"its sha256 is .* its record says {record.sha256}"):
        load(spec, store)
    path.unlink()
    with pytest.raises(IntegrityError, match="weights are gone"):
        load(spec, store)
