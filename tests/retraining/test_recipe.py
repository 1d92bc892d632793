"""The recipe's defaults, limits and learning rate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.errors import UsageError
from gradattr.retraining import Augmentation, Recipe, learning_rate


@settings(max_examples=50, deadline=None)
@given(
    lr=st.floats(1e-4, 10),
    decay=st.floats(0.1, 1.0),
    every=st.integers(1, 30),
    epochs=st.integers(1, 60),
)
def test_learning_rate_is_that_of_step_lr(lr, decay, every, epochs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, every, decay)
    recipe = Recipe(lr=lr, lr_decay=decay, lr_decay_every=every)
    for epoch in range(1, epochs + 1):
        assert learning_rate(recipe, epoch) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("lr", 0.0, "above 0"),
        ("lr", float("nan"), "above 0"),
        ("lr_decay", 1.5, r"\(0, 1\]"),
        ("momentum", 1.0, r"\[0, 1\)"),
        ("weight_decay", -1.0, "0 or more"),
        ("batch_size", 0, "1 or more"),
        ("epochs", 0, "1 or more"),
        ("optimizer", "lion", "sgd or adam"),
    ],
)
def test_impossible_recipes_are_refused(field, value, expected):
    with pytest.raises(UsageError, match=f"{field} is .*expected .*{expected}"):
        Recipe(**{field: value})


def test_negative_padding_is_refused():
    with pytest.raises(UsageError, match="crop_padding is -1"):
        Augmentation(crop_padding=-1)
