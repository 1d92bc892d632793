"""Occlusion against Captum, against a loop over windows, and where it is known exactly."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import nn

from gradattr.attribution import (
    Blur,
    Constant,
    Normalization,
    PlainEvaluator,
    attribute,
    method_request,
    occlusion,
)
from gradattr.attribution.perturbation.sliding_windows import Occlusion
from gradattr.errors import MethodError

#: Window and stride: overlapping, side by side, cut off at the border, one pixel, the whole image.
SIZES = [(8, 4), (8, 8), (7, 5), (9, 2), (32, 3), (5, 5)]


def loop(model, x, index, window, stride, fill):
    """One window at a time, until one has reached the border; mean over those that cover."""
    maps = []
    for image, c in zip(x, index, strict=True):
        total, cover = torch.zeros(1, *image.shape[1:]).double(), torch.zeros(image.shape[1:])
        for row in starts(image.shape[1], window, stride):
            for column in starts(image.shape[2], window, stride):
                place = (..., slice(row, row + window), slice(column, column + window))
                masked = image.clone()
                masked[place] = fill
                with torch.no_grad():
                    before, after = model(torch.stack([image, masked]))[:, c]
                total[place] += before - after
                cover[place] += 1
        maps.append(total / cover)
    return torch.stack(maps)


def starts(length, window, stride):
    found = [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    return found


@pytest.mark.parametrize(("window", "stride"), SIZES)
@pytest.mark.parametrize("name", ["cnn", "smooth"])
def test_map_of_captum(network, images, assert_close, name, window, stride):
    model, x = network(name), images(2)
    found = occlusion(model, x, window=window, stride=stride, baseline=0.3)
    theirs = captum.attr.Occlusion(model).attribute(
        x, (3, window, window), (3, stride, stride), 0.3, found.index, perturbations_per_eval=16
    )
    assert_close(found.maps, theirs[:, :1].double(), 1e-6)  # Captum answers in float32
    assert_close(found.maps, loop(model, x, found.index, window, stride, 0.3))
    assert found.maps.shape == (2, 1, 32, 32)
    assert found.completeness_gap is None


def test_images_that_are_not_square(assert_close):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 5 * 9, 4))
    model, x = model.double().eval(), torch.rand(3, 2, 7, 11, dtype=torch.float64)
    found = occlusion(model, x, window=4, stride=3)
    theirs = captum.attr.Occlusion(model).attribute(x, (2, 4, 4), (2, 3, 3), 0.0, found.index)
    assert_close(found.maps, theirs[:, :1].double(), 1e-6)
    assert found.evaluations == 2 * 4


def test_a_linear_model_loses_what_stands_in_the_window(network, images):
    model, x = network("linear"), images(2)
    found = occlusion(model, x, window=4, stride=4, baseline=0.3)
    weight = model[1].weight.detach()[found.index].view_as(x)
    cells = nn.functional.avg_pool2d((weight * (x - 0.3)).sum(1, keepdim=True), 4) * 16
    expected = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(found.maps, expected)


@pytest.mark.parametrize("target", ["logit_pred", "logit_true", "loss_true", "prob_pred", 3])
def test_every_target(network, images, assert_close, target):
    model, x, labels = network("cnn"), images(2), torch.tensor([4, 1])
    found = occlusion(model, x, target, window=16, stride=16, labels=labels)
    for image, c, result in zip(x, found.index, found.maps, strict=True):
        for row in (0, 16):
            for column in (0, 16):
                masked = image.clone()
                masked[:, row : row + 16, column : column + 16] = 0
                with torch.no_grad():
                    before, after = model(torch.stack([image, masked]))
                assert_close(
                    result[None, :, row, column],
                    (_score(target, before, c) - _score(target, after, c)).view(1, 1),
                )


def _score(target, logits, c):
    if target == "prob_pred":
        return logits.softmax(0)[c]
    if target == "loss_true":
        return logits.logsumexp(0) - logits[c]
    return logits[c]


def test_any_batch_and_any_neighbours(network, images, assert_close, watching):
    x = images(5)
    request = method_request("occlusion", window=10)
    whole = attribute(PlainEvaluator(network("cnn")), x, [request], seeds=range(5))[0]
    for batch in (1, 3, 7):
        watched = watching(network("cnn"))
        found = attribute(watched, x, [request], seeds=range(5), batch_size=batch)[0]
        assert_close(found.maps, whole.maps)
        assert watched.largest <= batch
    alone = attribute(PlainEvaluator(network("cnn")), x[3:4], [request], seeds=[3])[0]
    assert_close(alone.maps, whole.maps[3:4])


def test_a_broken_image_leaves_its_neighbours_alone(network, images, assert_close):
    x = images(3)
    clean = occlusion(network("cnn"), x)
    x[1, 0, 5, 5] = float("nan")
    found = occlusion(network("cnn"), x)
    assert found.status == ("ok", "non_finite", "ok")
    assert_close(found.maps[[0, 2]], clean.maps[[0, 2]])


def test_default_sizes_and_cost():
    method = Occlusion(Constant(0.0))
    assert method.sizes(224, 256) == (28, 14)
    assert method.sizes(32, 32) == (4, 2)
    assert method.sizes(5, 9) == (1, 1)
    assert method.evaluations(10, (3, 224, 224)) == 15 * 15
    assert Occlusion(Constant(0.0), 5, 4).evaluations(10, (1, 10, 6)) == 3 * 2


def test_other_baselines_and_black(network, images, assert_close):
    model, x = network("cnn"), images(2)
    black = Normalization(black=(-1.0, 0.5, 0.2), white=(1.0, 1.0, 1.0))
    found = occlusion(model, x, window=32, stride=32, normalization=black)
    dark = torch.tensor(black.black, dtype=torch.float64).view(1, 3, 1, 1).expand_as(x)
    with torch.no_grad():
        fall = (model(x) - model(dark)).gather(1, found.index[:, None])
    assert_close(found.maps[:, 0, 7, 9, None], fall)
    blurred = occlusion(model, x, window=32, stride=32, baseline=Blur(5, 2.0))
    assert (blurred.maps.std((1, 2, 3)) < 1e-12).all()
    assert (blurred.maps != found.maps).all()


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"window": 0}, "window: 0"),
        ({"stride": 0}, "stride: 0"),
        ({"window": 4, "stride": 5}, "stride: 5 given, at most the window of 4"),
        ({"baseline": torch.zeros(2, 3, 32, 32)}, "one input"),
    ],
)
def test_what_cannot_be(network, images, parameters, text):
    with pytest.raises(ValueError, match=text):
        occlusion(network("cnn"), images(1), **parameters)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"window": 33}, "window of 33 pixels is larger"), ({"stride": 7}, "stride of 7 pixels")],
)
def test_what_does_not_fit_the_images(network, images, parameters, text):
    with pytest.raises(MethodError, match=text):
        occlusion(network("cnn"), images(1), **parameters)


def test_inputs_that_are_not_images():
    model, x = nn.Linear(4, 2), torch.rand(3, 4)
    with pytest.raises(MethodError, match=r"masks regions of images .*shape \(4,\)"):
        occlusion(model, x)
    assert "shape (4,)" in Occlusion(Constant(0.0)).obstacle(model, x)
