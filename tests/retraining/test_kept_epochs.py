"""The weights after the epochs that are asked for, whatever happens on the way."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from gradattr.errors import Interrupted, ModelError
from gradattr.retraining import (
    Augmentation,
    EpochsInMemory,
    Recipe,
    learning_rate,
    train_classifier,
)

RECIPE = Recipe(
    batch_size=12,
    epochs=6,
    lr_decay_every=2,
    checkpoint_every=4,
    stop_below=0.0,
    augment=Augmentation(crop_padding=2),
)
ASKED = (1, 3, 4, 6)


class Killed(Exception):
    pass


def kill_after(epoch):
    def on_epoch(result):
        if result.epoch == epoch:
            raise Killed

    return on_epoch


def assert_same(one, two):
    assert one.kept.keys() == two.kept.keys()
    for epoch, (state, lr) in one.kept.items():
        others, other_lr = two.kept[epoch]
        assert lr == other_lr
        assert state.keys() == others.keys()
        assert all(torch.equal(state[name], others[name]) for name in state), epoch


@pytest.fixture(scope="module")
def undisturbed(few, make_net):
    """(kept epochs, result)"""
    keep = EpochsInMemory(ASKED)
    return keep, train_classifier(make_net(), *few, RECIPE, keep=keep)


def test_kept_are_the_weights_of_trainings_that_end_there(few, make_net, undisturbed):
    keep, _ = undisturbed
    assert sorted(keep.kept) == list(ASKED)
    for epoch, (state, lr) in keep.kept.items():
        shorter = make_net()
        train_classifier(shorter, *few, replace(RECIPE, epochs=epoch))
        assert all(torch.equal(state[name], value) for name, value in shorter.state_dict().items())
        assert lr == learning_rate(RECIPE, epoch)


def test_keeping_changes_nothing(few, make_net, undisturbed):
    keep, expected = undisturbed
    plain = make_net()
    assert train_classifier(plain, *few, RECIPE) == expected
    last, _ = keep.kept[6]
    assert all(torch.equal(last[name], value) for name, value in plain.state_dict().items())


def test_they_are_contiguous_copies_on_the_cpu(undisturbed):
    keep, _ = undisturbed
    places = [value.data_ptr() for state, _ in keep.kept.values() for value in state.values()]
    assert len(set(places)) == len(places)
    for state, _ in keep.kept.values():
        for value in state.values():
            assert value.is_contiguous() and value.device.type == "cpu"
            assert not value.requires_grad


def test_the_last_epoch_only_if_it_was_asked_for(few, make_net):
    keep = EpochsInMemory([2])
    train_classifier(make_net(), *few, RECIPE, keep=keep)
    assert list(keep.kept) == [2]


def test_a_training_that_stops_early_keeps_what_it_reached(few, make_net):
    keep = EpochsInMemory([1, 2, 5])
    result = train_classifier(make_net(), *few, replace(RECIPE, stop_below=100.0), keep=keep)
    assert (result.stopped, result.epochs) == ("loss", 1)
    assert list(keep.kept) == [1]


def test_a_checkpoint_follows_every_kept_epoch(few, make_net, memory_checkpoints):
    train_classifier(
        make_net(), *few, RECIPE, checkpoints=memory_checkpoints, keep=EpochsInMemory([1, 6])
    )
    assert [epoch for epoch, _ in memory_checkpoints.kept] == [1, 4, 6]


@pytest.mark.parametrize("killed_after", range(1, 7))
def test_resumed_they_equal_those_of_an_undisturbed_training(
    few, make_net, memory_checkpoints, undisturbed, killed_after
):
    keep, ran = EpochsInMemory(ASKED), []
    options = {"checkpoints": memory_checkpoints, "keep": keep}
    with pytest.raises(Killed):
        train_classifier(make_net(), *few, RECIPE, **options, on_epoch=kill_after(killed_after))
    before = dict(keep.kept)
    result = train_classifier(make_net(), *few, RECIPE, **options, on_epoch=ran.append)
    assert result == undisturbed[1]
    assert_same(keep, undisturbed[0])
    newest = max(epoch for epoch in (0, *ASKED) if epoch <= killed_after)
    assert [epoch.epoch for epoch in ran] == list(range(newest + 1, 7))
    assert all(keep.kept[epoch][0] is state for epoch, (state, _) in before.items())


@pytest.mark.parametrize("lost", [1, 3, 4])
def test_where_one_is_lost_the_training_starts_again(
    few, make_net, memory_checkpoints, undisturbed, lost
):
    keep, ran = EpochsInMemory(ASKED), []
    options = {"checkpoints": memory_checkpoints, "keep": keep}
    with pytest.raises(Killed):
        train_classifier(make_net(), *few, RECIPE, **options, on_epoch=kill_after(5))
    del keep.kept[lost]
    train_classifier(make_net(), *few, RECIPE, **options, on_epoch=ran.append)
    assert [epoch.epoch for epoch in ran] == [1, 2, 3, 4, 5, 6]
    assert_same(keep, undisturbed[0])


def test_one_that_is_lost_after_the_last_epoch_is_made_again(
    few, make_net, memory_checkpoints, undisturbed
):
    keep = EpochsInMemory(ASKED)
    options = {"checkpoints": memory_checkpoints, "keep": keep}
    train_classifier(make_net(), *few, RECIPE, **options)
    del keep.kept[3]
    train_classifier(make_net(), *few, RECIPE, **options)
    assert_same(keep, undisturbed[0])


def test_what_another_start_has_kept_is_forgotten(few, make_net, memory_checkpoints):
    """A checkpoint of an older recipe, and epochs that the new training does not reach."""
    keep = EpochsInMemory(ASKED)
    options = {"checkpoints": memory_checkpoints, "keep": keep}
    train_classifier(make_net(), *few, RECIPE, **options)
    train_classifier(make_net(), *few, replace(RECIPE, stop_below=100.0), **options)
    assert list(keep.kept) == [1]


def test_asked_for_later_than_the_training_began(few, make_net, memory_checkpoints, undisturbed):
    with pytest.raises(Killed):
        train_classifier(
            make_net(), *few, RECIPE, checkpoints=memory_checkpoints, on_epoch=kill_after(5)
        )
    assert memory_checkpoints.kept[-1][0] == 4
    keep = EpochsInMemory(ASKED)
    train_classifier(make_net(), *few, RECIPE, checkpoints=memory_checkpoints, keep=keep)
    assert_same(keep, undisturbed[0])


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # cleared for every example
)
@given(
    asked=st.sets(st.integers(1, 5)),
    every=st.integers(1, 6),
    stops=st.lists(st.integers(1, 19), max_size=3),
)
def test_any_stops_and_any_pace(few, memory_checkpoints, asked, every, stops):
    """Cancelled anywhere, also within an epoch, any number of times."""
    x, y = few
    recipe = Recipe(batch_size=21, epochs=5, checkpoint_every=every, stop_below=0.0)

    def net():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    memory_checkpoints.kept.clear()
    keep, whole = EpochsInMemory(asked), EpochsInMemory(asked)
    for stop in stops:
        left = iter(range(stop))
        with contextlib.suppress(Interrupted):
            train_classifier(
                net(),
                x,
                y,
                recipe,
                checkpoints=memory_checkpoints,
                keep=keep,
                cancelled=lambda: next(left, None) is None,  # noqa: B023
            )
    train_classifier(net(), x, y, recipe, checkpoints=memory_checkpoints, keep=keep)
    train_classifier(net(), x, y, recipe, keep=whole)
    assert_same(keep, whole)


class Odd(nn.Module):
    """Has state that is not a tensor."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(64, 10)

    def forward(self, x):
        return self.output(x.flatten(1))

    def get_extra_state(self):
        return "words"

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_refused(few):
    with pytest.raises(ModelError, match=r"'_extra_state' in its state dict is not a tensor"):
        train_classifier(Odd(), *few, RECIPE, keep=EpochsInMemory([1]))
