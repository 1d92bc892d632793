"""Masks on the fly equal a data set that was masked beforehand, bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.errors import DataError
from gradattr.retraining import (
    Adversary,
    Augmentation,
    LevelBins,
    Masking,
    Recipe,
    evaluate,
    evaluate_robust,
    train_classifier,
)

LEVELS = (0.1, 0.3, 0.7, 1.0)


def plain_masks(x, bins, keep, fill, mask_only):
    """Coordinate by coordinate."""
    masked = []
    for place, level_bin in enumerate(bins.expand_as(x).flatten().tolist()):
        kept = keep[0] <= level_bin < keep[1]
        value = 1.0 if mask_only else x.flatten()[place].item()
        channel = place // x[0, 0].numel() % x.shape[1]
        removed = 0.0 if mask_only else fill[channel % len(fill)]
        masked.append(value if kept else removed)
    return torch.tensor(masked).view(x.shape)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    per_pixel=st.booleans(),
    keep=st.tuples(st.integers(0, 256), st.integers(0, 256)).map(sorted).map(tuple),
    fill=st.one_of(st.tuples(st.just(0.0)), st.tuples(st.just(-1.5), st.just(0.25))),
    mask_only=st.booleans(),
)
def test_every_coordinate(seed, per_pixel, keep, fill, mask_only):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, 3, 3, generator=generator)
    shape = (2, 1 if per_pixel else 2, 3, 3)
    bins = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    bins.view(-1)[:2] = torch.tensor([0, 255])
    masking = Masking(bins, keep, fill, mask_only)
    masking.check(x, "training")
    expected = plain_masks(x, bins, keep, fill, mask_only)
    assert torch.equal(masking.apply(x, bins), expected)
    assert torch.equal(masking.masked_copy(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("fill", [(0.0,), (0.1,), (0.0, -3.7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masked_numbers_keep_every_bit(dtype, fill, layout):
    """Signed zeros, subnormal numbers, infinities and NaN as well."""
    special = [0.0, -0.0, 1e-40, math.inf, -math.inf, math.nan, 1 / 3, -7e4]
    x = torch.tensor(special * 4).to(dtype).view(2, 2, 2, 4).contiguous(memory_format=layout)
    bins = (torch.arange(32) // 5 % 3).to(torch.uint8).view(2, 2, 2, 4)
    masked = Masking(bins, (1, 2), fill).apply(x, bins)
    filled = torch.tensor(fill, dtype=dtype)[:, None, None].expand_as(x)
    expected = torch.where(bins == 1, x, filled)
    bytes_of = [value.contiguous().view(torch.uint8) for value in (masked, expected)]
    assert torch.equal(*bytes_of)
    assert masked.dtype == dtype


def test_removed_numbers_have_no_sign():
    x, bins = torch.full((1, 1, 2, 2), -1.0), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for fill in (-0.0, 0.0):
        masked = Masking(bins, (1, 2), (fill,)).apply(x, bins)
        assert not masked.signbit().any()


def test_images_are_not_written_to():
    x, bins = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    for fill in (0.0, 2.0):
        Masking(bins, (1, 2), (fill,)).apply(x, bins)
        assert x.eq(1).all()
        assert bins.eq(0).all()


def test_one_half_of_the_bins_of_an_image():
    bins = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).reshape(1, 1, 2, 2)
    x = torch.tensor([[5.0, 6.0], [7.0, 8.0]]).reshape(1, 1, 2, 2)
    assert Masking(bins, (0, 2)).apply(x, bins).flatten().tolist() == [5, 6, 0, 0]
    assert Masking(bins, (2, 4), (-1.0,)).apply(x, bins).flatten().tolist() == [-1, -1, 7, 8]
    assert Masking(bins, (1, 3), mask_only=True).apply(x, bins).flatten().tolist() == [0, 1, 1, 0]


@pytest.fixture(scope="module")
def masked(few):
    """Images, labels, and the bins of random scores."""
    x, y = few
    level_bins = LevelBins(LEVELS, 64)
    scores = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    return x, y, level_bins, level_bins.rank(scores, range(len(x)))


ARMS = [("top", 0.1), ("bottom", 0.3), ("rest", 0.3), ("top", 1.0)]


@pytest.mark.parametrize("adversary", [None, Adversary("linf", 0.1, steps=2, start="random")])
@pytest.mark.parametrize(("arm", "level"), ARMS)
@pytest.mark.parametrize("mask_only", [False, True])
@pytest.mark.parametrize("room", [True, False], ids=["copied", "batch by batch"])
def test_training_equals_that_on_a_masked_data_set(
    masked, make_net, monkeypatch, adversary, arm, level, mask_only, room
):
    x, y, level_bins, bins = masked
    if not room:
        monkeypatch.setattr("gradattr.retraining.training_data.MASKED_BYTES", 0)
    masking = Masking(bins, getattr(level_bins, arm)(level), (0.5,), mask_only)
    recipe = Recipe(
        batch_size=20, epochs=2, augment=Augmentation(1), adversary=adversary, stop_below=0.0
    )
    models = [make_net(), make_net()]
    on_the_fly = train_classifier(
        models[0], x, y, recipe, test=(x, y), masking=masking, test_masking=masking
    )
    materialised = masking.apply(x, bins)
    beforehand = train_classifier(models[1], materialised, y, recipe, test=(materialised, y))
    assert on_the_fly == beforehand
    state = models[1].state_dict()
    assert all(torch.equal(v, state[name]) for name, v in models[0].state_dict().items())
    assert torch.equal(materialised, x) == (level == 1.0 and not mask_only)


def test_evaluation_of_masked_images(masked, make_net):
    x, y, level_bins, bins = masked
    model, masking = make_net().eval(), Masking(bins, level_bins.top(0.3))
    materialised = masking.apply(x, bins)
    assert evaluate(model, x, y, 20, masking=masking) == evaluate(model, materialised, y, 20)
    assert evaluate(model, x, y, 20, masking=masking) != evaluate(model, x, y, 20)
    adversary = Adversary("l2", 0.5, start="random")
    attacked = evaluate_robust(model, x, y, adversary, 20, masking=masking)
    assert attacked == evaluate_robust(model, materialised, y, adversary, 20)


def test_resumed_on_other_masks_begins_anew(masked, make_net, memory_checkpoints):
    x, y, level_bins, bins = masked
    recipe = Recipe(batch_size=20, epochs=2, checkpoint_every=1, stop_below=0.0)
    seen = []
    top = Masking(bins, level_bins.top(0.3))
    for masking in (top, top, replace(top, keep=level_bins.bottom(0.3)), None):
        seen.append([])
        train_classifier(
            make_net(),
            x,
            y,
            recipe,
            masking=masking,
            checkpoints=memory_checkpoints,
            on_epoch=lambda result: seen[-1].append(result.epoch),
        )
    assert seen == [[1, 2], [], [1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": torch.zeros(60, 1, 8, 8, dtype=torch.uint8)}, r"bins \(60, 1, 8, 8\) of"),
        ({"bins": torch.zeros(61, 3, 8, 8, dtype=torch.uint8)}, r"bins \(61, 3, 8, 8\) of"),
        ({"bins": torch.zeros(61, 1, 8, 8)}, "of torch.float32 were given"),
        ({"keep": (3, 2)}, "bins from 3 to before 2 are to be kept"),
        ({"keep": (0, 257)}, "bins from 0 to before 257"),
        ({"fill": (0.0, 1.0)}, "2 fill values were given for 1 channels"),
    ],
)
def test_masks_that_do_not_fit(masked, make_net, change, message):
    x, y, _, bins = masked
    wrong = replace(Masking(bins, (0, 1)), **change)
    with pytest.raises(DataError, match=f"training masks: .*{message}"):
        train_classifier(make_net(), x, y, Recipe(epochs=1), masking=wrong)
    with pytest.raises(DataError, match=f"test masks: .*{message}"):
        train_classifier(make_net(), x, y, Recipe(epochs=1), test=(x, y), test_masking=wrong)
    with pytest.raises(DataError, match=message):
        evaluate(make_net(), x, y, masking=wrong)
