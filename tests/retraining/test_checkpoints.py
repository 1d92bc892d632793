"""An interrupted training, resumed, equals the uninterrupted one bit for bit."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace

import pytest
import torch

from gradattr.errors import Interrupted
from gradattr.retraining import (
    Adversary,
    Augmentation,
    LevelBins,
    Masking,
    Recipe,
    train_classifier,
)
from gradattr.retraining.checkpoints import decode_checkpoint, encode_checkpoint

RECIPE = Recipe(
    batch_size=12,
    epochs=6,
    lr_decay_every=2,
    checkpoint_every=2,
    stop_below=0.0,
    augment=Augmentation(crop_padding=2),
)


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    pass


def kill_after(epoch):
    def on_epoch(result):
        if result.epoch == epoch:
            raise Killed

    return on_epoch


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("killed_after", [1, 2, 5])
def test_resumed_equals_uninterrupted(few, make_net, memory_checkpoints, optimizer, killed_after):
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01)
    whole = make_net()
    expected = train_classifier(whole, *few, recipe, test=few)
    with pytest.raises(Killed):
        train_classifier(
            make_net(),
            *few,
            recipe,
            test=few,
            checkpoints=memory_checkpoints,
            on_epoch=kill_after(killed_after),
        )
    ran = []
    resumed = make_net(seed=99 if killed_after > 1 else 0)
    result = train_classifier(
        resumed, *few, recipe, test=few, checkpoints=memory_checkpoints, on_epoch=ran.append
    )
    assert result == expected
    assert_equal(state_of(resumed), state_of(whole))
    assert [e.epoch for e in ran] == list(range(1 + killed_after // 2 * 2, 7))


@pytest.mark.parametrize("start", ["zero", "random"])
def test_resumed_under_attack_and_masked(few, make_net, memory_checkpoints, start):
    x, y = few
    level_bins = LevelBins((0.4,), 64)
    masking = Masking(level_bins.rank(x, range(len(x))), level_bins.top(0.4))
    adversary = Adversary("l2", 0.5, steps=2, start=start, scale=(2.0,), low=(0.0,), high=(1.0,))
    recipe = replace(RECIPE, adversary=adversary)

    def train(model, **options):
        return train_classifier(
            model, x, y, recipe, test=few, masking=masking, test_masking=masking, **options
        )

    whole, resumed = make_net(), make_net()
    expected = train(whole)
    with pytest.raises(Killed):
        train(make_net(), checkpoints=memory_checkpoints, on_epoch=kill_after(3))
    ran = []
    result = train(resumed, checkpoints=memory_checkpoints, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == [3, 4, 5, 6]
    assert result == expected
    assert result.robust_test_accuracy is not None
    assert_equal(state_of(resumed), state_of(whole))


def test_cancelled_after_an_epoch_keeps_that_epoch(few, make_net, memory_checkpoints):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) == 3 * (5 + 1)  # before each of 5 batches, and after the epoch

    with pytest.raises(Interrupted, match="after epoch 3"):
        train_classifier(
            make_net(), *few, RECIPE, checkpoints=memory_checkpoints, cancelled=cancelled
        )
    assert memory_checkpoints.kept[-1][0] == 3
    resumed, whole = make_net(), make_net()
    train_classifier(resumed, *few, RECIPE, checkpoints=memory_checkpoints)
    train_classifier(whole, *few, RECIPE)
    assert_equal(state_of(resumed), state_of(whole))


def test_finished_training_is_not_run_again(few, make_net, memory_checkpoints):
    train_classifier(make_net(), *few, RECIPE, checkpoints=memory_checkpoints)
    ran = []
    again = train_classifier(
        make_net(), *few, RECIPE, checkpoints=memory_checkpoints, on_epoch=ran.append
    )
    assert ran == []
    assert again.epochs == 6


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_damaged_checkpoint_means_from_the_start(few, make_net, memory_checkpoints, damage):
    train_classifier(make_net(), *few, RECIPE, checkpoints=memory_checkpoints)
    epoch, data = memory_checkpoints.kept[-1]
    middle = len(data) // 2
    damaged = {
        "empty": b"",
        "cut": data[:-1],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "foreign": b"something else",
    }[damage]
    memory_checkpoints.kept = [(epoch, damaged)]
    ran = []
    train_classifier(make_net(), *few, RECIPE, checkpoints=memory_checkpoints, on_epoch=ran.append)
    assert len(ran) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.2},
        {"seed": 1},
        {"epochs": 7},
        {"augment": None},
        {"adversary": Adversary("l2", 0.1)},
    ],
)
def test_checkpoint_of_another_recipe_is_not_continued(few, make_net, memory_checkpoints, change):
    train_classifier(make_net(), *few, RECIPE, checkpoints=memory_checkpoints)
    ran = []
    train_classifier(
        make_net(),
        *few,
        replace(RECIPE, **change),
        checkpoints=memory_checkpoints,
        on_epoch=ran.append,
    )
    assert ran[0].epoch == 1


def test_checkpoints_may_be_kept_at_another_pace(few, make_net, memory_checkpoints):
    train_classifier(make_net(), *few, RECIPE, checkpoints=memory_checkpoints)
    assert [epoch for epoch, _ in memory_checkpoints.kept] == [2, 4, 6]
    ran = []
    train_classifier(
        make_net(),
        *few,
        replace(RECIPE, checkpoint_every=3),
        checkpoints=memory_checkpoints,
        on_epoch=ran.append,
    )
    assert ran == []


def test_nothing_in_a_checkpoint_is_executed(make_net, tmp_path):
    witness = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (open, (str(witness), "w"))

    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = encode_checkpoint(model, optimizer, asdict(RECIPE), [Payload()])
    assert not witness.exists()
    assert decode_checkpoint(data, asdict(RECIPE)) is None
    assert not witness.exists()
    pickle.loads(pickle.dumps(Payload())).close()
    assert witness.exists()
