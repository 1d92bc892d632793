"""Level bins: every arm of every level keeps what sorting each image by hand keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.errors import DataError, UsageError
from gradattr.retraining import LevelBins, kept_count

PAPER = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

some_levels = st.lists(
    st.one_of(st.sampled_from(PAPER), st.floats(0.001, 1.0)), min_size=1, max_size=8, unique=True
).map(lambda levels: tuple(sorted(levels)))
shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


@st.composite
def cases(draw):
    """(bins, scores, seeds, per_pixel): few distinct values, so that there are many ties."""
    shape = draw(shapes)
    per_pixel = draw(st.booleans())
    distinct = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scores = torch.randint(-distinct, distinct + 1, shape, generator=generator).float()
    scores *= draw(st.sampled_from([1e-45, 1e-20, 1.0, 1e37]))
    coordinates = shape[2] * shape[3] * (1 if per_pixel else shape[1])
    seeds = draw(st.lists(st.integers(0, 2**63 - 1), min_size=shape[0], max_size=shape[0]))
    return LevelBins(draw(some_levels), coordinates), scores, seeds, per_pixel


def kept(bins, keep):
    return (bins >= keep[0]) & (bins < keep[1])


@settings(max_examples=200, deadline=None)
@given(d=st.integers(1, 5000), level=st.floats(0.001, 1.0))
def test_kept_count_is_what_the_definition_says(d, level):
    assert kept_count(d, level) == d - round((1 - level) * d)
    assert 0 <= kept_count(d, level) <= d
    assert kept_count(d, 1.0) == d


@settings(max_examples=200, deadline=None)
@given(case=cases(), ties=st.sampled_from(["random", "index"]))
def test_exactly_so_many_are_kept_whatever_the_ties(case, ties):
    level_bins, scores, seeds, per_pixel = case
    bins = level_bins.rank(scores, seeds, ties=ties, per_pixel=per_pixel)
    assert bins.dtype == torch.uint8
    assert bins.shape == (len(scores), 1 if per_pixel else scores.shape[1], *scores.shape[2:])
    for level in level_bins.levels:
        count = kept_count(level_bins.coordinates, level)
        for keep in (level_bins.top(level), level_bins.bottom(level)):
            assert (kept(bins, keep).flatten(1).sum(1) == count).all()
        top, rest = kept(bins, level_bins.top(level)), kept(bins, level_bins.rest(level))
        assert torch.equal(top, ~rest)


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_equals_a_plain_sort(case):
    """By index, ties are those of Python's stable sort; the oracle knows no bins."""
    level_bins, scores, seeds, per_pixel = case
    bins = level_bins.rank(scores, seeds, ties="index", per_pixel=per_pixel)
    for image, row in zip(scores.double().abs(), bins, strict=True):
        values = (image.sum(0) if per_pixel else image).flatten().tolist()
        order = sorted(range(len(values)), key=lambda i: -values[i])
        for level in level_bins.levels:
            count = kept_count(len(values), level)
            top = sorted(order[:count])
            bottom = sorted(order[len(values) - count :])
            flat = row.flatten()
            assert kept(flat, level_bins.top(level)).nonzero().flatten().tolist() == top
            assert kept(flat, level_bins.bottom(level)).nonzero().flatten().tolist() == bottom


@settings(max_examples=100, deadline=None)
@given(case=cases(), ties=st.sampled_from(["random", "index"]))
def test_never_a_smaller_score_before_a_larger_one(case, ties):
    level_bins, scores, seeds, per_pixel = case
    bins = level_bins.rank(scores, seeds, ties=ties, per_pixel=per_pixel).flatten(1)
    values = scores.double().abs()
    values = (values.sum(1, keepdim=True) if per_pixel else values).flatten(1)
    for image, row in zip(values, bins, strict=True):
        for border in range(level_bins.bins - 1):
            before, after = image[row <= border], image[row > border]
            assert before.min() >= after.max()


@settings(max_examples=100, deadline=None)
@given(case=cases(), ties=st.sampled_from(["random", "index"]))
def test_bins_do_not_depend_on_the_batch(case, ties):
    level_bins, scores, seeds, per_pixel = case
    whole = level_bins.rank(scores, seeds, ties=ties, per_pixel=per_pixel)
    for row in range(len(scores)):
        part = slice(row, row + 1)
        alone = level_bins.rank(scores[part], seeds[part], ties=ties, per_pixel=per_pixel)
        assert torch.equal(alone[0], whole[row])
    back = level_bins.rank(scores.flip(0), seeds[::-1], ties=ties, per_pixel=per_pixel)
    assert torch.equal(back.flip(0), whole)


def test_random_ties_favour_no_corner_and_follow_the_seed():
    level_bins = LevelBins((0.25, 1.0), 64)
    scores = torch.zeros(600, 1, 8, 8)
    bins = level_bins.rank(scores, range(600))
    assert torch.equal(bins, level_bins.rank(scores, range(600)))
    assert not torch.equal(bins, level_bins.rank(scores, range(1, 601)))
    share = kept(bins, level_bins.top(0.25)).double().mean(0)
    assert share.mean().item() == 0.25
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 600) ** 0.5
    first = kept(level_bins.rank(scores, range(600), ties="index"), level_bins.top(0.25))
    assert first[:, :, :2].all()


def test_at_level_one_all_are_kept_by_either_arm():
    level_bins = LevelBins(PAPER, 784)
    assert level_bins.top(1.0) == level_bins.bottom(1.0) == (0, level_bins.bins)
    assert level_bins.rest(1.0)[0] == level_bins.rest(1.0)[1]
    # The cuts of level 90 % are those of 10 %, and so on; 5 % has no such partner.
    assert level_bins.cuts == (39, 78, 157, 235, 314, 392, 470, 549, 627, 706, 745)
    assert level_bins.bins == 12


def test_levels_too_small_to_keep_anything():
    level_bins = LevelBins((0.01, 0.5), 10)
    assert level_bins.top(0.01) == (0, 0)
    assert level_bins.bottom(0.01) == (level_bins.bins, level_bins.bins)
    assert level_bins.rest(0.01) == (0, level_bins.bins)


def test_other_dtypes_and_infinite_scores():
    scores = torch.tensor([1.0, -3.0, 2.0, float("-inf")]).reshape(1, 1, 2, 2)
    level_bins = LevelBins((0.25, 0.5, 0.75), 4)
    expected = [3, 1, 2, 0]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for per_pixel in (False, True):
            bins = level_bins.rank(scores.to(dtype), [0], per_pixel=per_pixel)
            assert bins.flatten().tolist() == expected


def test_sums_over_channels_do_not_overflow():
    scores = torch.full((1, 3, 1, 2), 3e38)
    scores[0, 0, 0, 0] = 2e38
    assert LevelBins((0.5,), 2).rank(scores, [0], per_pixel=True).flatten().tolist() == [1, 0]


def test_a_hundred_levels_fit_in_a_byte():
    levels = tuple(i / 100 for i in range(1, 101))
    level_bins = LevelBins(levels, 3072)
    bins = level_bins.rank(torch.rand(2, 3, 32, 32), [0, 1])
    for level in levels:
        assert (kept(bins, level_bins.top(level)).sum() == 2 * kept_count(3072, level)).all()


def test_a_score_that_is_no_number():
    scores = torch.zeros(3, 1, 2, 2)
    scores[1, 0, 1, 1] = float("nan")
    for per_pixel in (False, True):
        with pytest.raises(DataError, match="image 1 of 3 has a score that is NaN"):
            LevelBins((0.5,), 4).rank(scores, [0, 1, 2], per_pixel=per_pixel)


def test_what_cannot_be_binned():
    with pytest.raises(UsageError, match=r"level 0.0 was given, expected one in \(0, 1\]"):
        LevelBins((0.0, 0.5), 4)
    with pytest.raises(UsageError, match="0 levels of 4 coordinates"):
        LevelBins((), 4)
    with pytest.raises(UsageError, match="a byte holds 256; give fewer levels"):
        LevelBins(tuple((2 * i + 1) / 2000 for i in range(200)), 100_000)
    level_bins = LevelBins((0.5, 1.0), 4)
    with pytest.raises(UsageError, match=r"level 0.25 was asked for, these bins serve 0.5, 1.0"):
        level_bins.top(0.25)
    with pytest.raises(UsageError, match="expected 4 coordinates and a seed for each image"):
        level_bins.rank(torch.zeros(2, 1, 3, 3), [0, 1])
    with pytest.raises(UsageError, match=r"with 1 seeds were given"):
        level_bins.rank(torch.zeros(2, 1, 2, 2), [0])
