"""Weights on a training's way: kept beside the final ones, believed only when whole."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace

import pytest
import torch

from gradattr.canonical import digest_bytes, digest_json
from gradattr.errors import IntegrityError, ModelError, StoreError
from gradattr.manifest.data import Preprocess
from gradattr.models import (
    KeptWeights,
    StoredCheckpoints,
    StoredEpochs,
    build_model,
    load_kept,
    load_trained,
    read_trained,
    recipe_digest,
    weights_from_bytes,
    write_trained,
)
from gradattr.models.kept import kept_from_json
from gradattr.retraining import Recipe, learning_rate, train_classifier
from gradattr.storage.gc import collect
from gradattr.storage.layout import trained_checkpoint_key, trained_record_key

DIGEST = "56" * 32
SHAPE = (1, 8, 8)
ASKED = [1, 3, 4]
RECIPE = Recipe(batch_size=16, epochs=4, lr_decay_every=2, checkpoint_every=2, stop_below=0.0)


@pytest.fixture
def spec(make_spec):
    return make_spec("linear")


def build(spec, seed):
    return build_model(spec, shape=SHAPE, num_classes=3, seed=seed)


def train(store, spec, seed=1, asked=ASKED, on_epoch=None, recipe=RECIPE):
    """Train a model, or go on with it, as a task does; its record."""
    x = torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 3
    model = build(spec, seed)
    kept = StoredEpochs(store, DIGEST, asked)
    checkpoints = StoredCheckpoints(store, DIGEST, kept)
    result = train_classifier(
        model, x, y, recipe, checkpoints=checkpoints, keep=kept, on_epoch=on_epoch
    )
    return write_trained(store, DIGEST, model, spec, SHAPE, 3, result, kept.kept)


def load(store, spec, record, epoch):
    return load_kept(store, record, epoch, spec, shape=SHAPE, num_classes=3)


class Killed(Exception):
    pass


def kill_after(epoch):
    def on_epoch(result):
        if result.epoch == epoch:
            raise Killed

    return on_epoch


def test_what_is_kept_is_read(any_store, spec):
    record = train(any_store, spec)
    assert read_trained(any_store, DIGEST) == record
    assert [(kept.epoch, kept.lr) for kept in record.kept] == [
        (epoch, learning_rate(RECIPE, epoch)) for epoch in ASKED
    ]
    for kept in record.kept:
        data = any_store.get(kept.key)
        assert (digest_bytes(data), len(data)) == (kept.sha256, kept.bytes)
        assert kept.key.startswith(f"models/{DIGEST[:16]}/kept-00000{kept.epoch}-")
        model = load(any_store, spec, record, kept.epoch)
        assert not model.training
        state = weights_from_bytes(data, kept.key)
        assert torch.equal(model.output.weight, state["output.weight"])
    assert record.kept[-1].sha256 == record.sha256, "the last epoch was asked for"
    assert len({kept.sha256 for kept in record.kept}) == 3
    named = {file["key"] for file in record.files()} | {trained_record_key(DIGEST)}
    assert {item.key for item in any_store.list("models/")} == named


def test_an_epoch_that_was_not_asked_for_is_not_there(store, spec):
    record = train(store, spec, asked=[1, 3])
    assert [kept.epoch for kept in record.kept] == [1, 3]
    for epoch in (2, 4):
        with pytest.raises(ModelError, match=f"epoch {epoch} were not kept; there are: 1, 3"):
            load(store, spec, record, epoch)
    with pytest.raises(ModelError, match="there are: of no epoch"):
        load(store, spec, replace(record, kept=()), 1)


def test_a_training_that_stops_early_says_what_there_is(store, spec):
    record = train(store, spec, recipe=replace(RECIPE, stop_below=100.0))
    assert record.metrics["stopped"] == "loss"
    assert [kept.epoch for kept in record.kept] == [1]
    with pytest.raises(ModelError, match=r"epoch 4 were not kept; there are: 1\. .*stop early"):
        load(store, spec, record, 4)


def test_nothing_asked_for_nothing_kept(store, spec):
    record = train(store, spec, asked=[])
    assert record.kept == ()
    assert len(list(store.list("models/"))) == 2


def test_a_record_from_before_there_were_kept_epochs(store, spec):
    record = train(store, spec, asked=[])
    edit_record(store, lambda value: value.pop("kept"))
    assert read_trained(store, DIGEST) == record


def edit_record(store, change, seal=True):
    path = store.local_path(trained_record_key(DIGEST))
    value = json.loads(path.read_bytes())
    change(value)
    if seal:
        value["digest"] = digest_json({k: v for k, v in value.items() if k != "digest"})
    path.write_text(json.dumps(value))


def on_kept(number, change):
    def damage(store, record):
        path = store.local_path(record.kept[number].key)
        path.write_bytes(change(path.read_bytes()))

    return damage


def on_entry(seal=True, **fields):
    return lambda store, record: edit_record(
        store, lambda value: value["kept"][1].update(fields), seal
    )


DAMAGES = {
    "first gone": lambda store, record: store.local_path(record.kept[0].key).unlink(),
    "last gone": lambda store, record: store.local_path(record.kept[-1].key).unlink(),
    "cut": on_kept(1, lambda data: data[:-1]),
    "empty": on_kept(1, lambda data: b""),
    "longer": on_kept(1, lambda data: data + b"\0"),
    "another size": on_entry(bytes=7),
    "edited": on_entry(seal=False, lr=0.5),
    "elsewhere": on_entry(key="runs/other/run.json"),
    "out of order": on_entry(epoch=1),
    "no epoch": on_entry(epoch=None),
    "not a list": lambda store, record: edit_record(store, lambda value: value.update(kept=5)),
    "a list of words": lambda s, record: edit_record(s, lambda value: value.update(kept=["a"])),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_where_kept_weights_are_damaged_the_model_is_trained_again(store, spec, damage):
    record = train(store, spec)
    damage(store, record)
    assert read_trained(store, DIGEST) is None
    again = train(store, spec)
    assert read_trained(store, DIGEST) == again
    assert [kept.sha256 for kept in again.kept] == [kept.sha256 for kept in record.kept]
    for epoch in ASKED:
        load(store, spec, again, epoch)


def test_kept_weights_of_the_same_size_but_other_bytes_are_refused(store, spec):
    record = train(store, spec)
    on_kept(1, lambda data: data[:-1] + bytes([data[-1] ^ 1]))(store, record)
    load(store, spec, record, 1)
    with pytest.raises(IntegrityError, match=r"kept-000003-.*: its sha256 is .*delete"):
        load(store, spec, record, 3)
    store.delete(record.kept[1].key)
    with pytest.raises(IntegrityError, match=r"kept-000003-.*are gone"):
        load(store, spec, record, 3)


def test_kept_weights_of_another_architecture_are_refused(store, spec, make_spec):
    record = train(store, spec)
    with pytest.raises(ModelError, match=r"kept-000001-.*: other shapes"):
        load(store, make_spec("mlp", hidden=[4]), record, 1)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_resumed_they_are_those_of_an_undisturbed_training(any_store, spec, killed_after):
    with pytest.raises(Killed):
        train(any_store, spec, on_epoch=kill_after(killed_after))
    before = {item.key for item in any_store.list("models/") if "/kept-" in item.key}
    ran = []
    record = train(any_store, spec, seed=9, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == list(range(killed_after + 1, 5))
    assert before <= {kept.key for kept in record.kept}, "not kept a second time"
    any_store.delete(trained_record_key(DIGEST))
    undisturbed = train(any_store, spec)
    for one, other in zip(record.kept, undisturbed.kept, strict=True):
        assert (one.epoch, one.lr, one.sha256) == (other.epoch, other.lr, other.sha256)
        assert any_store.get(one.key) == any_store.get(other.key)


@pytest.mark.parametrize("killed_after", [3, 4])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "change",
    [None, lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])],
    ids=["gone", "cut", "other bytes"],
)
def test_a_training_whose_kept_weights_are_damaged_starts_again(
    store, spec, killed_after, number, change
):
    with pytest.raises(Killed):
        train(store, spec, on_epoch=kill_after(killed_after))
    files = sorted(item.key for item in store.list("models/") if "/kept-" in item.key)
    path = store.local_path(files[number])
    whole = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(whole))
    ran = []
    record = train(store, spec, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == [1, 2, 3, 4]
    assert [kept.epoch for kept in record.kept] == ASKED
    assert store.get(record.kept[number].key) == whole
    assert not {kept.key for kept in record.kept} & set(files), "of one course of training"


def test_a_pointer_that_names_damaged_entries_is_no_checkpoint(store, spec):
    with pytest.raises(Killed):
        train(store, spec, on_epoch=kill_after(3))
    pointer = store.local_path(trained_checkpoint_key(DIGEST))
    value = json.loads(pointer.read_bytes())
    assert [kept["epoch"] for kept in value["kept"]] == [1, 3]
    value["kept"][0]["key"] = "runs/other/run.json"
    value["digest"] = digest_json({k: v for k, v in value.items() if k != "digest"})
    pointer.write_text(json.dumps(value))
    ran = []
    record = train(store, spec, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == [1, 2, 3, 4]
    assert [kept.epoch for kept in record.kept] == ASKED


def test_weights_that_are_not_finite_are_not_kept(store, spec):
    state = build(spec, 1).state_dict()
    state["output.bias"][1] = float("inf")
    with pytest.raises(ModelError, match=r"after epoch 2: .* output\.bias"):
        StoredEpochs(store, DIGEST, [2]).keep(2, state, 0.1)
    assert list(store.list("models/")) == []


def test_a_store_that_refuses_them_ends_the_training_which_then_resumes(store, spec, monkeypatch):
    whole = store.put_unique

    def full(key, data):
        if "/kept-000003" in key:
            raise StoreError("no space")
        whole(key, data)

    monkeypatch.setattr(store, "put_unique", full)
    with pytest.raises(StoreError, match="no space"):
        train(store, spec)
    monkeypatch.undo()
    ran = []
    record = train(store, spec, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == [3, 4]
    assert [kept.epoch for kept in record.kept] == ASKED


def test_racing_trainers_get_one_course_of_training(any_store, spec):
    start = threading.Barrier(3)
    results = []

    def race(seed):
        start.wait()
        results.append(train(any_store, spec, seed=seed))

    threads = [threading.Thread(target=race, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    record = read_trained(any_store, DIGEST)
    if any_store.backend.conditional:
        assert all(result == record for result in results)
    for epoch in ASKED:
        load(any_store, spec, record, epoch)
    assert record.kept[-1].sha256 == record.sha256


@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_that_vanishes_is_no_loss_if_another_trainer_was_first(
    store, spec, monkeypatch, finished
):
    if finished:
        first = train(store, spec)
    put = store.put

    def put_and_lose(key, data):
        if key == trained_checkpoint_key(DIGEST):
            raise StoreError("written, but not there afterwards")
        put(key, data)

    monkeypatch.setattr(store, "put", put_and_lose)
    if finished:
        assert train(store, spec, seed=2) == first
    else:
        with pytest.raises(StoreError, match="not there afterwards"):
            train(store, spec, seed=2)


def age(store):
    for item in list(store.list("models/")):
        os.utime(store.local_path(item.key), (time.time() - 1e6,) * 2)


def test_gc_leaves_kept_weights_of_trainings_and_of_models_that_count(store, spec):
    with pytest.raises(Killed):
        train(store, spec, on_epoch=kill_after(3))
    orphan = StoredEpochs(store, DIGEST, [3])
    orphan.keep(3, build(spec, 5).state_dict(), 0.1)
    age(store)
    assert collect(store).deleted == [kept.key for kept in orphan.kept]
    ran = []
    record = train(store, spec, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == [4]
    age(store)
    assert collect(store).deleted == []
    assert read_trained(store, DIGEST) == record
    orphan.keep(3, build(spec, 5).state_dict(), 0.1)
    age(store)
    assert collect(store).deleted == [kept.key for kept in orphan.kept]
    for epoch in ASKED:
        load(store, spec, record, epoch)


def test_final_weights_are_loaded_as_before(store, spec):
    record = train(store, spec)
    final = load_trained(store, record, spec, shape=SHAPE, num_classes=3)
    assert torch.equal(final.output.weight, load(store, spec, record, 4).output.weight)


def test_entries_survive_json():
    kept = (KeptWeights(2, 0.1 * 0.75, f"models/{DIGEST[:16]}/kept-a", "0" * 64, 9),)
    written = json.loads(json.dumps([weights.to_json() for weights in kept]))
    assert kept_from_json(written, DIGEST) == kept


def digest_of(make_spec, **train_block):
    block = {"data": {"format": "digits", "split": "train"}, **train_block}
    spec = make_spec("cnn", width=4, train=block)
    preprocess = Preprocess(mean=[0.5], std=[0.25])
    return recipe_digest(spec, {"train": "d1", "test": "d2"}, preprocess, (1, 8, 8), 10)


def test_recipes_without_kept_epochs_are_what_they_always_were(make_spec):
    """Digests by which models stand in stores: they must not change with new fields."""
    assert digest_of(make_spec) == (
        "4da513dc3c1ad719eb2f72f353a1baa89044eb864c00d73dc3217ead896d6f9e"
    )
    changed = digest_of(
        make_spec,
        epochs=3,
        batch_size=64,
        lr=0.05,
        augment={"flip": False},
        checkpoint_every=2,
        keep_epochs=[],
    )
    assert changed == "6aea9cc2f9ff095dbd49e0a9f2439eda0c9c59eb9c718763f00de20a46657a7a"


def test_recipes_with_kept_epochs_are_others(make_spec):
    asked = ([], [1], [2], [1, 2])
    assert len({digest_of(make_spec, epochs=3, keep_epochs=epochs) for epochs in asked}) == 4
