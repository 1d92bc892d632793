"""Trained models in the store: found by their recipe, believed only when whole."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import torch

from gradattr.canonical import digest_json
from gradattr.errors import IntegrityError, ModelError, StoreError
from gradattr.manifest.data import Preprocess
from gradattr.models import (
    StoredCheckpoints,
    build_model,
    load_model,
    load_trained,
    read_trained,
    recipe_digest,
    save_weights,
    weights_digest,
    write_trained,
)
from gradattr.retraining import EpochResult, Recipe, TrainResult, train_classifier
from gradattr.storage.layout import trained_checkpoint_key, trained_record_key

DIGEST = "12" * 32
SHAPE = (1, 8, 8)
RESULT = TrainResult(
    (EpochResult(1, 0.5, 0.9, 0.1, 0.6, 0.8), EpochResult(2, 0.4, 0.95, 0.1, 0.7, 0.7)), "epochs"
)


@pytest.fixture
def spec(make_spec):
    return make_spec("linear")


def build(spec, seed):
    return build_model(spec, shape=SHAPE, num_classes=3, seed=seed)


def write(store, spec, seed=5):
    return write_trained(store, DIGEST, build(spec, seed), spec, SHAPE, 3, RESULT)


def load(store, spec, record):
    return load_trained(store, record, spec, shape=SHAPE, num_classes=3)


def test_nothing_is_there_at_first(store):
    assert read_trained(store, DIGEST) is None


def test_what_is_written_is_read(store, spec):
    record = write(store, spec)
    assert read_trained(store, DIGEST) == record
    assert (record.arch, record.shape, record.num_classes) == ("linear", SHAPE, 3)
    assert record.metrics["last_epoch_test_accuracy"] == 0.7
    assert record.metrics["best_epoch_test_accuracy"] == 0.8
    assert [e["loss"] for e in record.metrics["history"]] == [0.5, 0.4]
    assert record.reference() == {
        "digest": DIGEST,
        "key": record.key,
        "sha256": record.sha256,
        "bytes": record.bytes,
        "kept": [],
    }
    model = load(store, spec, record)
    assert torch.equal(model.output.weight, build(spec, 5).output.weight)


def test_first_record_counts(store, spec):
    first = write(store, spec, seed=1)
    assert write(store, spec, seed=2) == first
    assert torch.equal(load(store, spec, first).output.weight, build(spec, 1).output.weight)


def test_racing_trainers_get_the_same_model(store, spec):
    start = threading.Barrier(4)
    results = []

    def train(seed):
        model = build(spec, seed)
        start.wait()
        results.append(write_trained(store, DIGEST, model, spec, SHAPE, 3, RESULT))

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert {r.sha256 for r in results} == {read_trained(store, DIGEST).sha256}


def edit(change):
    def damage(store, record):
        path = store.local_path(trained_record_key(DIGEST))
        value = json.loads(path.read_bytes())
        change(value)
        path.write_text(json.dumps(value))

    return damage


def reseal(change):
    def damage(store, record):
        path = store.local_path(trained_record_key(DIGEST))
        value = json.loads(path.read_bytes())
        change(value)
        value["digest"] = digest_json({k: v for k, v in value.items() if k != "digest"})
        path.write_text(json.dumps(value))

    return damage


def on_record(change):
    def damage(store, record):
        path = store.local_path(trained_record_key(DIGEST))
        path.write_bytes(change(path.read_bytes()))

    return damage


def on_weights(change):
    def damage(store, record):
        path = store.local_path(record.key)
        path.write_bytes(change(path.read_bytes()))

    return damage


DAMAGES = {
    "record empty": on_record(lambda data: b""),
    "record cut": on_record(lambda data: data[:-9]),
    "record not json": on_record(lambda data: b"\xff\xfe{"),
    "record a list": on_record(lambda data: b"[]"),
    "record edited": edit(lambda v: v.update(num_classes=4)),
    "record without a field": reseal(lambda v: v.pop("sha256")),
    "record of another recipe": reseal(lambda v: v.update(recipe="34" * 32)),
    "record of another format": reseal(lambda v: v.update(format="gradattr/shard")),
    "record points elsewhere": reseal(lambda v: v.update(weights="runs/other/run.json")),
    "weights gone": lambda store, record: store.local_path(record.key).unlink(),
    "weights cut": on_weights(lambda data: data[:-1]),
    "weights empty": on_weights(lambda data: b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_record_counts_as_absent_and_is_replaced(store, spec, damage):
    damage(store, write(store, spec, seed=1))
    assert read_trained(store, DIGEST) is None
    again = write(store, spec, seed=2)
    assert read_trained(store, DIGEST) == again
    assert torch.equal(load(store, spec, again).output.weight, build(spec, 2).output.weight)


def test_weights_of_the_same_size_but_other_bytes_are_refused(store, spec):
    record = write(store, spec)
    on_weights(lambda data: data[:-1] + bytes([data[-1] ^ 1]))(store, record)
    with pytest.raises(IntegrityError, match=r"weights-.*safetensors: its sha256 is .*delete"):
        load(store, spec, record)


def test_weights_that_training_left_not_finite_are_not_kept(store, spec):
    model = build(spec, 1)
    with torch.no_grad():
        model.output.bias[1] = float("nan")
    with pytest.raises(ModelError, match=r"linear after training: .* output\.bias"):
        write_trained(store, DIGEST, model, spec, SHAPE, 3, RESULT)
    assert list(store.list("models/")) == []


def digest_of(make_spec, train_block, *, data="d1", preprocess=None, shape=SHAPE, classes=10, **f):
    spec = make_spec(f.pop("arch", "linear"), train=train_block, **f)
    return recipe_digest(spec, {"train": data}, preprocess or Preprocess(), shape, classes)


def test_digest_follows_what_the_model_depends_on(make_spec, train_block):
    digests = [
        digest_of(make_spec, train_block),
        digest_of(make_spec, {**train_block, "lr": 0.2}),
        digest_of(make_spec, {**train_block, "seed": 1}),
        digest_of(make_spec, {**train_block, "augment": {"flip": False}}),
        digest_of(make_spec, train_block, data="d2"),
        digest_of(make_spec, train_block, preprocess=Preprocess(mean=[0.5], std=[0.5])),
        digest_of(make_spec, train_block, shape=(1, 9, 9)),
        digest_of(make_spec, train_block, classes=11),
        digest_of(make_spec, train_block, arch="mlp"),
        digest_of(make_spec, train_block, arch="mlp", hidden=[8]),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


def test_digest_does_not_follow_where_data_stands_or_when_checkpoints_are_kept(
    make_spec, train_block
):
    moved = {"format": "npz", "file": "s3://bucket/digits.npz"}
    assert (
        digest_of(make_spec, train_block)
        == digest_of(make_spec, {**train_block, "data": moved})
        == digest_of(make_spec, {**train_block, "checkpoint_every": 1})
        == digest_of(make_spec, train_block, num_classes=10)
    )


def test_digest_follows_the_source_of_a_factory(make_spec, train_block, user_module, tmp_path):
    def digest():
        return digest_of(make_spec, train_block, arch=f"python:{user_module}:small")

    before = digest()
    source = tmp_path / f"{user_module}.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert digest() != before


def test_model_without_a_train_block_has_no_recipe(spec):
    with pytest.raises(ModelError, match="no 'train' block"):
        recipe_digest(spec, {}, Preprocess(), SHAPE, 3)


class Killed(Exception):
    pass


def test_training_resumes_from_the_store_bit_for_bit(store, spec):
    x = torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 3
    recipe = Recipe(batch_size=16, epochs=7, checkpoint_every=2, stop_below=0.0)

    def kill(result):
        if result.epoch == 5:
            raise Killed

    with pytest.raises(Killed):
        train_classifier(
            build(spec, 1),
            x,
            y,
            recipe,
            checkpoints=StoredCheckpoints(store, DIGEST),
            on_epoch=kill,
        )
    ran = []
    resumed, whole = build(spec, 2), build(spec, 1)
    checkpoints = StoredCheckpoints(store, DIGEST)
    train_classifier(resumed, x, y, recipe, checkpoints=checkpoints, on_epoch=ran.append)
    train_classifier(whole, x, y, recipe)
    assert [e.epoch for e in ran] == [5, 6, 7]
    assert torch.equal(resumed.output.weight, whole.output.weight)


def test_every_kind_of_store_keeps_models(any_store, spec):
    checkpoints = StoredCheckpoints(any_store, DIGEST)
    checkpoints.save(1, b"first")
    checkpoints.save(2, b"second")
    assert StoredCheckpoints(any_store, DIGEST).load() == (2, b"second")
    record = write(any_store, spec, seed=1)
    assert checkpoints.load() is None
    assert len(list(any_store.list("models/"))) == 2
    assert write(any_store, spec, seed=2) == record
    any_store.put(trained_record_key(DIGEST), b"{}")
    assert read_trained(any_store, DIGEST) is None
    again = write(any_store, spec, seed=2)
    assert read_trained(any_store, DIGEST) == again
    model = load(any_store, spec, again)
    assert torch.equal(model.output.weight, build(spec, 2).output.weight)


def test_weights_from_a_url_of_an_object_store(any_store, make_spec):
    data = save_weights(build(make_spec("linear"), 4))
    any_store.put_unique("inputs/linear.safetensors", data)
    spec = make_spec("linear", weights=any_store.url("inputs/linear.safetensors"))
    planned = weights_digest(spec, any_store)
    model = load_model(spec, any_store, shape=SHAPE, num_classes=3, expected_digest=planned)
    assert torch.equal(model.output.weight, build(spec, 4).output.weight)


def test_only_the_newest_checkpoint_is_kept_and_none_at_the_end(store):
    first = StoredCheckpoints(store, DIGEST)
    for epoch in (1, 2, 3):
        first.save(epoch, b"state %d" % epoch)
    second = StoredCheckpoints(store, DIGEST)
    assert second.load() == (3, b"state 3")
    second.save(4, b"state 4")
    assert len(list(store.list("models/"))) == 2
    second.clear()
    assert list(store.list("models/")) == []
    assert second.load() is None


@pytest.mark.parametrize("damage", ["pointer cut", "data other", "data gone", "elsewhere"])
def test_damaged_checkpoint_is_no_checkpoint(store, damage):
    checkpoints = StoredCheckpoints(store, DIGEST)
    checkpoints.save(3, b"some state")
    pointer = store.local_path(trained_checkpoint_key(DIGEST))
    value = json.loads(pointer.read_bytes())
    data = store.local_path(value["key"])
    if damage == "pointer cut":
        pointer.write_bytes(pointer.read_bytes()[:20])
    elif damage == "data other":
        data.write_bytes(b"sOme state")
    elif damage == "data gone":
        data.unlink()
    else:
        value["key"] = "runs/x/run.json"
        value["digest"] = digest_json({k: v for k, v in value.items() if k != "digest"})
        pointer.write_text(json.dumps(value))
    assert StoredCheckpoints(store, DIGEST).load() is None


def test_clearing_what_may_not_be_deleted_is_no_failure(store, monkeypatch):
    checkpoints = StoredCheckpoints(store, DIGEST)
    checkpoints.save(1, b"a")

    def denied(key):
        raise StoreError("denied")

    monkeypatch.setattr(store, "delete", denied)
    checkpoints.save(2, b"b")
    assert checkpoints.load() == (2, b"b")
    checkpoints.clear()


def test_records_survive_comparison_by_value(store, spec):
    record = write(store, spec)
    assert replace(record, sha256="0" * 64) != read_trained(store, DIGEST)
