"""RISE against the published code, a loop over masks, and what it means for a linear model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import nn

from gradattr.attribution import (
    Constant,
    PlainEvaluator,
    Uniform,
    attribute,
    method_request,
    rise,
)
from gradattr.attribution.perturbation.smooth_masks import Rise, SmoothMasks
from gradattr.errors import MethodError


def published_masks(size, cells, masks):
    """The masks as the authors' code makes them, from the same grids and shifts."""
    sides = [math.ceil(length / cells) for length in size]
    made = []
    for grid, (row, column) in zip(masks.grids.numpy(), masks.shifts.tolist(), strict=True):
        large = resize(
            grid,
            [(cells + 1) * side for side in sides],
            order=1,
            mode="reflect",
            anti_aliasing=False,
        )
        made.append(large[row : row + size[0], column : column + size[1]])
    return torch.from_numpy(np.stack(made))


@pytest.mark.parametrize(("size", "cells"), [((32, 32), 7), ((30, 41), 4), ((5, 9), 8)])
def test_masks_of_the_published_code(size, cells):
    masks = SmoothMasks(40, cells, 0.4, torch.zeros(size, dtype=torch.float64))
    torch.testing.assert_close(masks(range(40)), published_masks(size, cells, masks))


def test_masks_are_numbered():
    like = torch.zeros(20, 20)
    many, few = SmoothMasks(300, 5, 0.5, like), SmoothMasks(20, 5, 0.5, like)
    torch.testing.assert_close(few(range(7, 12)), many(range(20))[7:12])
    assert not torch.equal(many(range(1)), many(range(1, 2)))
    assert many.shifts.min() == 0
    assert many.shifts.max() == 3
    assert abs(float(many.grids.mean()) - 0.5) < 0.02
    in_float64 = SmoothMasks(20, 5, 0.5, like.double())
    torch.testing.assert_close(in_float64(range(20)).float(), few(range(20)))


@pytest.mark.parametrize("name", ["cnn", "smooth"])
@pytest.mark.parametrize("target", ["logit_pred", "prob_pred", "loss_true", 2])
def test_map_of_a_loop_over_masks(network, images, assert_close, name, target):
    model, x, start = network(name), images(2), images(1, seed=5)
    labels = torch.tensor([1, 0])
    found = rise(model, x, target, samples=23, cells=3, keep=0.3, baseline=start, labels=labels)
    masks = SmoothMasks(23, 3, 0.3, x)(range(23))
    for image, c, result in zip(x, found.index, found.maps, strict=True):
        total = torch.zeros(32, 32, dtype=torch.float64)
        for mask in masks:
            with torch.no_grad():
                (logits,) = model((image * mask + start[0] * (1 - mask))[None])
            scores = {"prob_pred": logits.softmax(0), "loss_true": -logits.log_softmax(0)}
            total += scores.get(target, logits)[c] * mask
        assert_close(result[None], total[None, None] / (23 * 0.3))


def test_any_batch_and_any_neighbours(network, images, assert_close, watching):
    x = images(5)
    request = method_request("rise", samples=17, cells=4)
    whole = attribute(PlainEvaluator(network("cnn")), x, [request], seeds=range(5))[0]
    assert whole.maps.shape == (5, 1, 32, 32)
    for batch in (1, 4, 11):
        watched = watching(network("cnn"))
        found = attribute(watched, x, [request], seeds=range(5), batch_size=batch)[0]
        assert_close(found.maps, whole.maps)
        assert watched.largest <= batch
    alone = attribute(PlainEvaluator(network("cnn")), x[3:4], [request], seeds=[99])[0]
    assert_close(alone.maps, whole.maps[3:4])  # the same masks for every seed


def test_what_matters_stands_out():
    """A model that only sees one corner: the mean mask there is brightest."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 2, bias=False)).double()
    weight = torch.zeros(2, 1, 32, 32, dtype=torch.float64)
    weight[0, 0, 20:26, 4:10] = 1
    model[1].weight = nn.Parameter(weight.flatten(1))
    found = rise(model, torch.ones(1, 1, 32, 32, dtype=torch.float64), 0, samples=2000)
    row, column = divmod(int(found.maps.argmax()), 32)
    assert 17 <= row <= 28
    assert 2 <= column <= 12


def test_a_broken_image_leaves_its_neighbours_alone(network, images, assert_close):
    x = images(3)
    clean = rise(network("cnn"), x, samples=9)
    x[1, 0, 5, 5] = float("nan")
    found = rise(network("cnn"), x, samples=9)
    assert found.status == ("ok", "non_finite", "ok")
    assert_close(found.maps[[0, 2]], clean.maps[[0, 2]])


def test_random_baselines_and_cost(network, images):
    found = rise(network("cnn"), images(2), samples=6, baseline=Uniform())
    assert found.status == ("ok", "ok")
    assert found.evaluations == 6
    assert Rise(Constant(0.0)).evaluations(10, (3, 32, 32)) == 4000


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"samples": 0}, "samples: 0"), ({"cells": 1}, "cells: 1"), ({"keep": 1.0}, "keep: 1.0")],
)
def test_what_cannot_be(network, images, parameters, text):
    with pytest.raises(ValueError, match=text):
        rise(network("cnn"), images(1), **parameters)


def test_inputs_that_are_not_images():
    with pytest.raises(MethodError, match="masks regions of images"):
        rise(nn.Linear(4, 2), torch.rand(3, 4))
