"""Batched augmentation equals a plain loop over images with the same draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.retraining import Augmentation
from gradattr.retraining.augmentation import apply, draw


def one_by_one(augment, x, draws):
    results = []
    padding = augment.crop_padding
    for image, top, left, mirrored in zip(
        x, draws.top.tolist(), draws.left.tolist(), draws.mirrored.tolist(), strict=True
    ):
        channels, height, width = image.shape
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
        canvas[:, padding : padding + height, padding : padding + width] = image
        crop = canvas[:, top : top + height, left : left + width]
        results.append(crop.flip(2) if mirrored else crop)
    return torch.stack(results)


@settings(max_examples=60, deadline=None)
@given(
    padding=st.integers(0, 5),
    flip=st.booleans(),
    count=st.integers(1, 9),
    channels=st.integers(1, 3),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    seed=st.integers(0, 2**62),
)
def test_equals_a_loop_over_images(padding, flip, count, channels, height, width, seed):
    augment = Augmentation(crop_padding=padding, flip=flip)
    x = torch.randn(count, channels, height, width)
    draws = draw(augment, count, seed, epoch=1)
    assert torch.equal(apply(augment, x, draws), one_by_one(augment, x, draws))


def test_draws_depend_on_seed_and_epoch_alone():
    augment = Augmentation(crop_padding=4)
    first = draw(augment, 100, 7, 3)
    torch.rand(5)
    again = draw(augment, 100, 7, 3)
    assert torch.equal(first.top, again.top)
    assert torch.equal(first.mirrored, again.mirrored)
    for seed, epoch in ((7, 4), (8, 3)):
        assert not torch.equal(first.top, draw(augment, 100, seed, epoch).top)


def test_any_batch_size_gives_the_same_images():
    augment = Augmentation(crop_padding=2)
    x = torch.randn(10, 3, 8, 8)
    draws = draw(augment, 10, 0, 1)
    whole = apply(augment, x, draws)
    rows = torch.randperm(10)
    parts = [apply(augment, x[part], draws.select(part)) for part in rows.split(3)]
    assert torch.equal(torch.cat(parts), whole[rows])


def test_shifts_are_uniform_and_half_are_mirrored():
    draws = draw(Augmentation(crop_padding=4), 90_000, 0, 1)
    for shifts in (draws.top, draws.left):
        counts = torch.bincount(shifts, minlength=9)
        assert len(counts) == 9
        assert counts.min() > 9_600
        assert counts.max() < 10_400
    assert draws.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_no_flip_and_no_crop_is_the_identity():
    augment = Augmentation(crop_padding=0, flip=False)
    x = torch.randn(5, 1, 4, 4)
    assert torch.equal(apply(augment, x, draw(augment, 5, 0, 1)), x)
