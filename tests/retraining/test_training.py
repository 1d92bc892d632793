"""The training loop: it learns, it stops when it should, and it refuses what it cannot learn."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradattr.errors import DataError, Interrupted, ModelError
from gradattr.retraining import Augmentation, Recipe, train_classifier
from gradattr.retraining.training_data import batch_bounds
from gradattr.seeds import derive_seed


def linear(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def mlp():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def weights_equal(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("make", [linear, mlp])
def test_digits_are_learned(digits, make):
    train, test = digits
    model = make()
    result = train_classifier(model, *train, Recipe(batch_size=64, epochs=20), test=test)
    assert result.last_epoch_test_accuracy > 0.93
    assert result.last_epoch_loss < result.history[0].loss
    assert not model.training


def test_adam_learns_too(digits):
    train, test = digits
    recipe = Recipe(optimizer="adam", lr=0.01, weight_decay=0.0, batch_size=64, epochs=5)
    result = train_classifier(mlp(), *train, recipe, test=test)
    assert result.last_epoch_test_accuracy > 0.93


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("convolutional", [False, True])
def test_equals_a_plain_loop(few, make_net, optimizer, convolutional):
    x, y = few
    recipe = Recipe(
        optimizer=optimizer,
        lr=0.05,
        lr_decay=0.5,
        lr_decay_every=1,
        batch_size=20,
        epochs=3,
        stop_below=0.0,
        seed=4,
    )
    model, plain = (make_net(dropout=0.0) if convolutional else mlp() for _ in range(2))
    train_classifier(model.double(), x.double(), y, recipe)
    plain.double().train()
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
        "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=5e-4),
    }[optimizer]
    reference = make(plain.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(reference, 1, 0.5)
    for epoch in (1, 2, 3):
        generator = torch.Generator().manual_seed(derive_seed(4, "order", epoch))
        order = torch.randperm(len(x), generator=generator)
        for rows in (order[:20], order[20:40], order[40:]):
            reference.zero_grad()
            F.cross_entropy(plain(x[rows].double()), y[rows]).backward()
            reference.step()
        schedule.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-11)


def test_model_comes_back_in_the_usual_memory_layout(few, make_net):
    model = make_net()
    train_classifier(model, *few, Recipe(batch_size=20, epochs=1))
    assert all(p.is_contiguous() for p in model.parameters())


def test_history_holds_loss_accuracy_and_rate(few):
    x, y = few
    recipe = Recipe(lr=0.2, lr_decay=0.5, lr_decay_every=2, batch_size=61, epochs=3, stop_below=0)
    model = linear()
    before = copy.deepcopy(model)
    seen = []
    result = train_classifier(model, x, y, recipe, test=(x, y), on_epoch=seen.append)
    assert seen == list(result.history)
    assert [e.epoch for e in seen] == [1, 2, 3]
    assert [e.lr for e in seen] == [0.2, 0.2, 0.1]
    logits = before(x)
    assert seen[0].loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert seen[0].accuracy == (logits.argmax(1) == y).sum().item() / 61
    assert seen[2].test_loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


def test_stops_early_when_the_loss_is_low_enough(few):
    recipe = Recipe(optimizer="adam", lr=0.01, batch_size=8, epochs=200, stop_below=0.5)
    result = train_classifier(mlp(), *few, recipe)
    assert result.stopped == "loss"
    assert result.last_epoch_loss < 0.5
    assert all(e.loss >= 0.5 for e in result.history[:-1])
    assert 1 < result.epochs < 200
    endless = Recipe(optimizer="adam", lr=0.01, batch_size=8, epochs=result.epochs, stop_below=0.0)
    assert train_classifier(mlp(), *few, endless).stopped == "epochs"


def test_same_seed_same_weights_whatever_the_global_generator(few, make_net):
    recipe = Recipe(batch_size=16, epochs=2, augment=Augmentation(crop_padding=1))
    torch.manual_seed(1)
    first, other = make_net(), make_net()
    train_classifier(first, *few, recipe)
    torch.manual_seed(2)
    expected = torch.rand(4)
    torch.manual_seed(2)
    second = make_net()
    train_classifier(second, *few, recipe)
    assert torch.equal(torch.rand(4), expected)
    assert weights_equal(first, second)
    train_classifier(other, *few, Recipe(**{**recipe.__dict__, "seed": 1}))
    assert not weights_equal(first, other)


def test_observing_a_training_does_not_change_it(few, make_net, memory_checkpoints):
    recipe = Recipe(batch_size=16, epochs=3)
    observed, alone = make_net(), make_net()
    train_classifier(
        observed,
        *few,
        recipe,
        test=few,
        on_epoch=lambda _: torch.rand(3),
        checkpoints=memory_checkpoints,
        cancelled=lambda: False,
    )
    train_classifier(alone, *few, recipe)
    assert weights_equal(observed, alone)


def test_last_batch_of_one_image_is_trained_with_batch_norm(few, make_net):
    model = make_net()
    result = train_classifier(model, *few, Recipe(batch_size=12, epochs=2))
    assert result.epochs == 2
    assert int(model[1].num_batches_tracked) == 2 * 5


def test_batches_of_one_image_and_batch_norm_are_refused(few, make_net):
    with pytest.raises(ModelError, match=r"batch of 1 image: use a larger batch_size"):
        train_classifier(make_net(), *few, Recipe(batch_size=1, epochs=1))


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 300), size=st.integers(1, 50))
def test_batches_cover_every_image_once(count, size):
    bounds = list(batch_bounds(count, size))
    assert [i for start, end in bounds for i in range(start, end)] == list(range(count))
    sizes = [end - start for start, end in bounds]
    assert max(sizes) <= size + 1
    assert all(s == size for s in sizes[:-1])
    assert count == 1 or size == 1 or min(sizes) > 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1, 3], r"1 of 4 labels are outside 0\.\.9 \(they go from -1 to 3"),
        ([0, 1, 10, 12], r"2 of 4 labels are outside 0\.\.9 \(they go from 0 to 12"),
        ([0, 1, -100, 3], r"labels are outside"),
        ([0, 1, 2], r"images \(4, 1, 8, 8\), labels \(3,\)"),
    ],
)
def test_bad_labels_are_refused_before_training(labels, message):
    with pytest.raises(DataError, match=message):
        train_classifier(linear(), torch.zeros(4, 1, 8, 8), torch.tensor(labels), Recipe(epochs=1))


def test_test_data_is_checked_as_well(few):
    x, y = few
    with pytest.raises(DataError, match="test data: 61 of 61 labels"):
        train_classifier(linear(), x, y, Recipe(epochs=1), test=(x, y + 10))


def test_empty_data_and_images_of_another_shape(few):
    x, y = few
    with pytest.raises(DataError, match="the training data is empty"):
        train_classifier(linear(), x[:0], y[:0], Recipe(epochs=1))
    with pytest.raises(DataError, match=r"cannot take images of shape \(1, 7, 7\)"):
        train_classifier(linear(), x[:, :, 1:, 1:], y, Recipe(epochs=1))


def test_divergence_is_an_error_and_names_the_rate(few):
    with pytest.raises(
        ModelError, match=r"diverged: the training loss of epoch \d is (nan|inf).*1e\+20"
    ):
        train_classifier(mlp(), *few, Recipe(lr=1e20, batch_size=8, epochs=5))


def test_nothing_to_train(few):
    with pytest.raises(ModelError, match="no trainable parameters"):
        train_classifier(linear().requires_grad_(False), *few, Recipe(epochs=1))


def test_cancelled_between_batches(few, memory_checkpoints):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Interrupted, match="in epoch 1"):
        train_classifier(
            linear(),
            *few,
            Recipe(batch_size=8, epochs=5),
            cancelled=cancelled,
            checkpoints=memory_checkpoints,
        )
    assert len(asked) == 4
    assert memory_checkpoints.kept == []
