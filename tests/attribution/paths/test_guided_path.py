"""Guided IG against the published loop, one image at a time, and where it is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.attribution import Blur, Unlearned, guided_ig, integrated_gradients, method_request
from gradattr.attribution.paths.guided_path import GuidedPath


def plain_guided_ig(x_input, x_baseline, gradient, steps, fraction, max_dist):
    """Algorithm 1 as its authors wrote it, in the places x of the coordinates (NumPy)."""
    x, total_diff = x_baseline.copy(), x_input - x_baseline
    l1_total = np.abs(total_diff).sum()
    attribution = np.zeros_like(x)
    if l1_total == 0:
        return attribution
    for step in range(steps):
        slope = gradient(x)
        ranked = slope.copy()
        alpha = (step + 1) / steps
        alpha_min, alpha_max = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
        x_min, x_max = x_baseline + total_diff * alpha_min, x_baseline + total_diff * alpha_max
        l1_target = l1_total * (1 - alpha)
        gamma = np.inf
        while gamma > 1.0:
            x_old = x.copy()
            with np.errstate(divide="ignore", invalid="ignore"):
                x_alpha = (x - x_baseline) / total_diff
            x_alpha[total_diff == 0] = alpha_max
            x[x_alpha < alpha_min] = x_min[x_alpha < alpha_min]
            l1_current = np.abs(x - x_input).sum()
            if math.isclose(l1_target, l1_current, rel_tol=1e-9, abs_tol=1e-9):
                attribution += (x - x_old) * slope
                break
            # The published code asks whether x_alpha == alpha_max, which rounding defeats.
            ranked[np.abs(x - x_max) <= 1e-14] = np.inf
            threshold = np.quantile(np.abs(ranked), fraction, method="lower")
            chosen = (np.abs(ranked) <= threshold) & (ranked != np.inf)
            within = (np.abs(x - x_max) * chosen).sum()
            gamma = (l1_current - l1_target) / within if within > 0 else np.inf
            if gamma > 1.0:
                x[chosen] = x_max[chosen]
            else:
                x[chosen] = (x + (x_max - x) * gamma)[chosen]
            attribution += (x - x_old) * slope
    return attribution


def loop(model, x, starts, steps, fraction, max_dist):
    maps = []
    for image, start in zip(x, starts, strict=True):
        c = int(model(image[None].clone()).argmax())

        def gradient(point, c=c):
            leaf = torch.from_numpy(point)[None].requires_grad_(True)
            return torch.autograd.grad(model(leaf * 1)[0, c], leaf)[0][0].numpy()

        found = plain_guided_ig(image.numpy(), start.numpy(), gradient, steps, fraction, max_dist)
        maps.append(torch.from_numpy(found))
    return torch.stack(maps)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "smooth"])
@pytest.mark.parametrize("numbers", [(25, 0.25, 0.02), (8, 0.1, 0.2), (5, 0.6, 0.0)], ids=str)
def test_map_of_the_published_loop(network, images, assert_close, name, numbers):
    model, x = network(name), images(3)
    x[0, :, 3:9] = 0  # coordinates that are at home already
    steps, fraction, max_dist = numbers
    found = guided_ig(model, x, steps=steps, fraction=fraction, max_dist=max_dist)
    assert_close(found.maps, loop(model, x, torch.zeros_like(x), *numbers), 1e-7)
    assert found.evaluations == steps


def test_other_baselines(network, images, assert_close):
    model, x = network("cnn"), images(2)
    start = images(1, seed=3)
    found = guided_ig(model, x, steps=7, baseline=start)
    assert_close(found.maps, loop(model, x, start.expand_as(x), 7, 0.25, 0.02), 1e-7)
    for baseline in (Blur(5, 2.0), Unlearned(iterations=2)):
        assert guided_ig(model, x, steps=5, baseline=baseline).status == ("ok", "ok")
    assert method_request("guided_ig", baseline=Unlearned()).evaluations(10, (3, 8, 8)) == 200 + 12


def test_a_linear_model_gives_weight_times_difference(network, images):
    model, x = network("linear"), images(3)
    found = guided_ig(model, x, steps=6, baseline=0.3)
    weight = model[1].weight.detach()[found.index].view_as(x)
    torch.testing.assert_close(found.maps, weight * (x - 0.3))
    assert found.completeness_gap.abs().max() < 1e-9
    torch.testing.assert_close(found.path_spearman, torch.ones(3, dtype=torch.float64))


def test_in_a_band_of_no_width_it_is_the_straight_line(network, images, assert_close):
    model, x = network("cnn"), images(2)
    straight = integrated_gradients(model, x, steps=9, rule="left")
    assert_close(guided_ig(model, x, steps=9, max_dist=0.0).maps, straight.maps, 1e-7)


def test_it_adds_up_when_steps_are_small(network, images):
    model, x = network("smooth"), images(2)
    gaps = [guided_ig(model, x, steps=s).completeness_gap.abs().max() for s in (50, 100, 200)]
    assert gaps[2] < gaps[1] < gaps[0]
    found = guided_ig(model, x)
    claimed = (found.score - found.baseline_score).abs()
    assert (found.completeness_gap.abs() < 0.02 * claimed).all()


@given(
    st.integers(1, 30),
    st.integers(1, 12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_every_step_goes_its_share_and_stays_in_the_band(d, steps, fraction, max_dist, seed):
    generator = torch.Generator().manual_seed(seed)
    span = torch.rand(2, d, generator=generator, dtype=torch.float64)
    span[0, 0] = 0
    path = GuidedPath(None, steps, fraction, max_dist)
    place = torch.zeros_like(span)
    for step in range(steps):
        size = torch.randint(4, span.shape, generator=generator).double()
        moved = path.advance(place, span, size, step)
        ahead = (step + 1) / steps
        assert (moved >= place).all()
        inside = (moved >= ahead - max_dist - 1e-12) & (moved <= ahead + max_dist + 1e-12)
        assert (inside | (span == 0)).all()
        left = (span * (1 - moved)).sum(1)
        torch.testing.assert_close(left, span.sum(1) * (1 - ahead), rtol=1e-7, atol=1e-7)
        place = moved


def test_an_image_that_is_the_baseline_gets_zeros(network):
    x = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    x[1] += 0.1
    found = guided_ig(network("cnn"), x, steps=3)
    assert not found.maps[0].any()
    assert found.maps[1].any()


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"steps": 0}, "steps: 0"), ({"fraction": 1.5}, "fraction: 1.5"), ({"max_dist": -1}, "-1")],
)
def test_what_cannot_be(parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request("guided_ig", **parameters)
