"""BlurIG against a loop over images with scipy's Gaussian filter, and where it is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from gradattr.attribution import blur_ig, method_request
from gradattr.attribution.paths.blur_path import BlurPath, scale_space


def blurred(image, sigma):
    if sigma == 0:
        return image
    kind = {"mode": "constant", "cval": 0.0, "truncate": 60.0}
    return torch.from_numpy(gaussian_filter(image.numpy(), [0, sigma, sigma], **kind))


def probability_slope(model, point, c):
    point = point[None].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(point * 1)[0, c], point)
    return slope[0]


def plain_blur_ig(model, image, max_sigma, steps):
    """The published loop: sigma_i = i max_sigma / steps from 0 on, dL/dsigma by differences."""
    c, total, h = int(model(image[None].clone()).argmax()), torch.zeros_like(image), 1e-5
    for i in range(steps):
        sigma = i * max_sigma / steps
        slope = torch.zeros_like(image)
        if sigma > 0:
            slope = (blurred(image, sigma + h) - blurred(image, sigma - h)) / (2 * h)
        total += max_sigma / steps * slope * probability_slope(model, blurred(image, sigma), c)
    return -total


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "smooth"])
def test_map_of_the_published_loop(network, images, assert_close, name):
    model, x = network(name), images(3)
    expected = torch.stack([plain_blur_ig(model, image, 6.0, 9) for image in x])
    found = blur_ig(model, x, max_sigma=6.0, steps=9, batch_size=4)
    assert_close(found.maps, expected, 1e-6)
    assert found.evaluations == 9


@given(st.floats(0.05, 40), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_blur_and_its_derivative(sigma, height, width):
    rng = np.random.default_rng(height)
    x = torch.from_numpy(rng.random((2, height, width)))
    found, slope = scale_space(x[None], sigma)
    torch.testing.assert_close(found[0], blurred(x, sigma), rtol=1e-9, atol=1e-12)
    h = 1e-4 * sigma
    difference = (blurred(x, sigma + h) - blurred(x, sigma - h)) / (2 * h)
    torch.testing.assert_close(slope[0], difference, rtol=1e-4, atol=1e-6 / sigma)


def test_a_linear_model_gives_weight_times_what_the_blur_takes_away(network, images):
    model, x = network("linear"), images(3)
    found = blur_ig(model, x, max_sigma=5.0, steps=120, rule="gauss_legendre")
    weight = model[1].weight[found.index].view_as(x)
    expected = weight * (x - scale_space(x, 5.0)[0])
    torch.testing.assert_close(found.maps, expected.detach(), rtol=1e-6, atol=1e-9)


@given(st.floats(0.5, 6), st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_it_adds_up(network, images, max_sigma, seed):
    model, x = network("smooth"), images(2, seed)
    found = blur_ig(model, x, max_sigma=max_sigma, steps=100, rule="gauss_legendre")
    start = scale_space(x, max_sigma)[0]
    expected = model(start).gather(1, found.index[:, None])[:, 0]
    torch.testing.assert_close(found.baseline_score, expected.detach())
    assert found.completeness_gap.abs().max() < 1e-6


def test_the_strongest_blur_goes_with_the_image(network, images):
    model, x = network("cnn"), images(2)
    one, other = blur_ig(model, x, steps=4), blur_ig(model, x, steps=4, max_sigma=50 / 224 * 32)
    assert torch.equal(one.maps, other.maps)
    assert one.path_spearman.isfinite().all()


def test_an_image_of_one_colour_is_blurred_at_its_border_alone(network):
    """The blur of the published code is black (here: 0) outside of the image."""
    x = torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64)
    found = blur_ig(network("linear"), x, max_sigma=1.0, steps=20).maps
    assert found[..., 9:-9, 9:-9].abs().max() < 1e-9 < found[..., 0, :].abs().max()


def test_what_cannot_be():
    with pytest.raises(ValueError, match="max_sigma: 0"):
        BlurPath(0.0, 3, "right")
    with pytest.raises(ValueError, match="steps: 0"):
        method_request("blur_ig", steps=0)
    with pytest.raises(ValueError, match="needs images"):
        blur_ig(torch.nn.Linear(3, 2), torch.rand(2, 3))
