"""LIME and KernelSHAP against scikit-learn, Captum, brute force, and on linear models."""

from __future__ import annotations

import itertools
import math
import sys

import captum.attr
import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from torch import nn

from gradattr.attribution import (
    Blur,
    Constant,
    Normalization,
    PlainEvaluator,
    attribute,
    kernel_shap,
    lime,
    method_request,
)
from gradattr.attribution.perturbation.coalitions import coalitions, random_masks
from gradattr.attribution.perturbation.linear_fits import shapley_regression, weighted_ridge
from gradattr.attribution.perturbation.segments import find_segments, grid
from gradattr.attribution.perturbation.surrogates import KernelShap, Lime
from gradattr.errors import MethodError
from gradattr.seeds import sample_seeds

PIXELS = Normalization()
SEEDS = sample_seeds(0, "sample", map(str, range(8)))


def masked(image, filler, parts, z):
    return torch.where(z[parts], image, filler)


def scores_behind(model, image, filler, parts, masks, c):
    with torch.no_grad():
        return torch.stack([model(masked(image, filler, parts, z)[None])[0, c] for z in masks])


@pytest.mark.parametrize("numbers", [(60, 9, 0.25, 1.0), (40, 49, 0.5, 0.1)], ids=str)
@pytest.mark.parametrize("segments", ["grid", "slic"])
def test_lime_is_the_ridge_regression_of_scikit_learn(network, images, numbers, segments):
    samples, count, width, ridge = numbers
    model, x = network("cnn"), images(2)
    found = lime(
        model, x, samples=samples, count=count, segments=segments, kernel_width=width, ridge=ridge
    )
    all_parts = find_segments(segments, x, count, PIXELS)
    for image, parts, seed, c, result in zip(
        x, all_parts, SEEDS, found.index, found.maps, strict=False
    ):
        masks = random_masks(seed, samples, int(parts.max()) + 1)
        y = scores_behind(model, image, torch.zeros_like(image), parts, masks, c)
        data = masks.numpy().astype(float)
        distances = pairwise_distances(data, data[:1], metric="cosine").ravel()
        weights = np.sqrt(np.exp(-(distances**2) / width**2))
        fit = Ridge(alpha=ridge, fit_intercept=True).fit(data, y.numpy(), sample_weight=weights)
        expected = torch.from_numpy(fit.coef_)[parts]
        torch.testing.assert_close(result[0], expected, rtol=1e-7, atol=1e-10)


def test_without_penalty_lime_of_a_linear_model_is_what_each_segment_adds(network, images):
    model, x = network("linear"), images(2)
    found = lime(model, x, samples=120, count=16, ridge=0.0, baseline=0.3)
    weight = model[1].weight.detach()[found.index].view_as(x)
    torch.testing.assert_close(found.maps, in_cells(weight * (x - 0.3)))


def in_cells(products, side=8):
    cells = nn.functional.avg_pool2d(products.sum(1, keepdim=True), side) * side**2
    return cells.repeat_interleave(side, 2).repeat_interleave(side, 3)


@pytest.mark.parametrize("samples", [20, 1000])
def test_kernel_shap_of_a_linear_model(network, images, samples):
    """Its Shapley values are what each segment adds, once the masks tell the segments apart."""
    model, x = network("linear"), images(2)
    found = kernel_shap(model, x, samples=samples, count=9 if samples == 20 else 16, baseline=0.3)
    if samples == 1000:
        weight = model[1].weight.detach()[found.index].view_as(x)
        torch.testing.assert_close(found.maps, in_cells(weight * (x - 0.3)) / 64)
    assert found.completeness_gap.abs().max() < 1e-12


def shapley_values(value, players):
    """By the definition: the mean gain over all orders, as a sum over coalitions."""
    values = []
    for j in range(players):
        others = [i for i in range(players) if i != j]
        total = 0.0
        for size in range(players):
            weight = 1 / (players * math.comb(players - 1, size))
            for coalition in itertools.combinations(others, size):
                total += weight * (value({*coalition, j}) - value({*coalition}))
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_exact_shapley_values_by_brute_force(network, images, count):
    model, x = network("cnn"), images(2)
    found = kernel_shap(model, x, samples=2**count, count=count, baseline=0.2)
    parts = grid(32, 32, count)
    assert found.evaluations == 2**count - 2
    for image, c, result in zip(x, found.index, found.maps, strict=True):

        def value(coalition, image=image, c=c):
            z = torch.tensor([j in coalition for j in range(count)])
            filler = torch.full_like(image, 0.2)
            return float(scores_behind(model, image, filler, parts, [z], c)[0])

        expected = shapley_values(value, count)
        sums = torch.zeros(count, dtype=torch.float64)
        sums.index_add_(0, parts.flatten(), result.flatten())
        torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-11)
        assert (result[0] - (expected / parts.flatten().bincount())[parts]).abs().max() < 1e-11


def test_exact_shapley_values_of_captum(network, images):
    """Captum's mean over orders of the segments, given each order once."""
    model, x, parts = network("smooth"), images(2), grid(32, 32, 4)
    found = kernel_shap(model, x, samples=14, count=4, baseline=0.2)
    method = captum.attr.ShapleyValueSampling(model)
    method.permutation_generator = lambda _features, _count: itertools.permutations(range(4))
    theirs = method.attribute(
        x, 0.2, found.index, feature_mask=parts.repeat(1, 3, 1, 1), n_samples=24
    )
    torch.testing.assert_close(found.maps * 256, theirs[:, :1].double(), rtol=1e-5, atol=1e-7)


def test_drawn_coalitions_come_near_the_exact_values(network, images):
    model, x = network("cnn"), images(2)
    exact = kernel_shap(model, x, samples=1022, count=9).maps
    errors = [
        (kernel_shap(model, x, samples=samples, count=9).maps - exact).norm() / exact.norm()
        for samples in (24, 100, 500)
    ]
    assert errors[2] < errors[0]
    assert errors[2] < 0.1


def test_coalitions():
    masks, weights = coalitions(0, 62, 6)
    assert len({tuple(z.tolist()) for z in masks}) == 62
    assert weights[masks.sum(1) == 1].unique() == pytest.approx(5 / (6 * 5))
    assert weights[masks.sum(1) == 3].unique() == pytest.approx(5 / (20 * 9))
    masks, weights = coalitions(5, 4001, 20)
    assert masks.shape == (4000, 20)
    assert (weights == 1).all()
    assert (masks[:2000] ^ masks[2000:]).all()
    sizes = masks.sum(1)
    assert sizes.min() == 1
    assert sizes.max() == 19
    share = torch.tensor([1 / (s * (20 - s)) for s in range(1, 20)])
    expected = 4000 * share / share.sum()
    found = sizes.bincount(minlength=20)[1:]
    assert ((found - expected).abs() < 5 * (2 * expected).sqrt()).all()
    assert (masks.double().mean(0) - 0.5).abs().max() < 1e-12
    assert torch.equal(masks, coalitions(5, 4001, 20)[0])
    assert not torch.equal(masks, coalitions(6, 4001, 20)[0])
    assert coalitions(0, 10, 1)[0].shape == (0, 1)


def test_regressions_where_masks_leave_values_open():
    masks = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    gains, total = torch.tensor([3.0, 1.0]).double(), torch.tensor(4.0).double()
    values = shapley_regression(masks, gains, torch.ones(2).double(), total)
    torch.testing.assert_close(values, torch.tensor([1.5, 1.5, 0.5, 0.5]).double())
    alone = shapley_regression(masks[:0, :1], gains[:0], gains[:0], total)
    torch.testing.assert_close(alone, total[None])
    fitted = weighted_ridge(masks, gains, torch.ones(2).double(), 0.0)
    torch.testing.assert_close(fitted, torch.tensor([0.5, 0.5, -0.5, -0.5]).double())


@pytest.mark.parametrize("name", ["lime", "kernel_shap"])
@pytest.mark.parametrize("segments", ["grid", "slic"])
def test_any_batch_and_any_neighbours(network, images, assert_close, watching, name, segments):
    x = images(4)
    x[1, :, 8:20, 4:30] = 0.9  # superpixels of its own
    request = method_request(name, samples=14, count=6, segments=segments)
    whole = attribute(PlainEvaluator(network("cnn")), x, [request], seeds=SEEDS[:4])[0]
    for batch in (1, 3, 9):
        watched = watching(network("cnn"))
        found = attribute(watched, x, [request], seeds=SEEDS[:4], batch_size=batch)[0]
        assert_close(found.maps, whole.maps, 1e-8)
        assert watched.largest <= batch
    alone = attribute(PlainEvaluator(network("cnn")), x[2:3], [request], seeds=SEEDS[2:3])[0]
    assert_close(alone.maps, whole.maps[2:3], 1e-8)


@pytest.mark.parametrize("function", [lime, kernel_shap])
@pytest.mark.parametrize("target", ["logit_true", "prob_pred", "loss_pred", 3])
def test_every_target_and_baseline(network, images, function, target):
    model, x, labels = network("cnn"), images(2), torch.tensor([4, 1])
    found = function(model, x, target, samples=20, count=4, labels=labels, baseline=Blur(5, 2.0))
    assert found.status == ("ok", "ok")
    assert found.maps.shape == (2, 1, 32, 32)
    if function is kernel_shap:
        assert found.completeness_gap.abs().max() < 1e-12
        total = found.maps.sum((1, 2, 3))
        torch.testing.assert_close(total, found.score - found.baseline_score)


@pytest.mark.parametrize("segments", ["grid", "slic"])
def test_a_broken_image_leaves_its_neighbours_alone(network, images, assert_close, segments):
    x = images(3)
    clean = kernel_shap(network("cnn"), x, samples=20, count=4, segments=segments)
    x[1, 0, 5, 5] = float("nan")
    found = kernel_shap(network("cnn"), x, samples=20, count=4, segments=segments)
    assert found.status == ("ok", "non_finite", "ok")
    assert_close(found.maps[[0, 2]], clean.maps[[0, 2]], 1e-8)


def test_cells_are_as_equal_as_can_be():
    parts = grid(32, 32, 49)
    assert int(parts.max()) + 1 == 49
    assert set(parts.flatten().bincount().tolist()) <= {16, 20, 25}
    assert int(grid(10, 40, 16).max()) + 1 == 16
    assert int(grid(2, 3, 100).max()) + 1 == 6
    assert int(grid(30, 2, 8).max()) + 1 == 8


def test_superpixels_follow_the_image():
    x = torch.zeros(1, 3, 32, 32)
    x[:, 0, :, 16:] = 1
    (parts,) = find_segments("slic", x, 4, PIXELS)
    assert not set(parts[:, :16].flatten().tolist()) & set(parts[:, 16:].flatten().tolist())


@pytest.mark.parametrize("function", [lime, kernel_shap])
def test_superpixels_need_scikit_image(network, images, monkeypatch, function):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MethodError, match=r"pip install 'gradattr\[superpixels\]'"):
        function(network("cnn"), images(1), segments="slic", samples=4)


def test_cost():
    assert Lime(Constant(0.0)).evaluations(10, (3, 64, 64)) == 1000
    assert KernelShap(Constant(0.0), 101).evaluations(10, (3, 64, 64)) == 100
    assert KernelShap(Constant(0.0), 1000, count=9).evaluations(10, (3, 64, 64)) == 510
    assert KernelShap(Constant(0.0), 7, "slic", 9).evaluations(10, (3, 64, 64)) == 6


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("lime", {"samples": 1}, "samples: 1"),
        ("lime", {"segments": "hexagons"}, "segments: 'hexagons'"),
        ("kernel_shap", {"count": 1}, "count: 1"),
        ("lime", {"kernel_width": 0}, "kernel_width: 0"),
        ("lime", {"ridge": -1}, "ridge: -1"),
    ],
)
def test_what_cannot_be(name, parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request(name, **parameters)


def test_inputs_that_are_not_images():
    for function in (lime, kernel_shap):
        with pytest.raises(MethodError, match="masks regions of images"):
            function(nn.Linear(4, 2), torch.rand(3, 4))
