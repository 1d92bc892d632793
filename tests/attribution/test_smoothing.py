"""Any method on noisy copies: what is known of the mean."""

import pytest
import torch

from gradattr.attribution import (
    NoisyCopies,
    PlainEvaluator,
    Uniform,
    Unlearned,
    attribute,
    grad_cam,
    method_request,
)
from gradattr.attribution.noise import standard_normal
from gradattr.seeds import sample_seeds

METHODS = {
    "gradient": {},
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 3, "rule": "right"},
    "expected_gradients": {"baseline": Uniform(), "samples": 3},
    "uni": {"steps": 2, "iterations": 2},
    "blur_ig": {"steps": 3},
    "guided_ig": {"steps": 4, "max_dist": 0.2, "baseline": Unlearned(iterations=2)},
    "agi": {"iterations": 2, "classes": 2},
    "random": {},
}


def run(model, x, *requests, batch_size=64):
    seeds = sample_seeds(5, "sample", [str(i) for i in range(len(x))])
    return attribute(PlainEvaluator(model), x, requests, seeds=seeds, batch_size=batch_size)


@pytest.mark.parametrize("name", METHODS)
def test_one_copy_without_noise_equals_none(network, images, name):
    x = images(3)
    smooth = method_request(name, id="s", smooth=NoisyCopies(1, 0.0), **METHODS[name])
    plain, smoothed = run(network("cnn"), x, method_request(name, **METHODS[name]), smooth)
    torch.testing.assert_close(smoothed.maps, plain.maps, rtol=1e-10, atol=1e-14)
    assert smoothed.completeness_gap is None
    assert smoothed.evaluations == plain.evaluations


def test_the_smoothed_gradient_is_smoothgrad(network, images):
    copies = NoisyCopies(7, 0.2)
    smoothgrad, smoothed = run(
        network("cnn"),
        images(3),
        method_request("smoothgrad", samples=7, sigma=0.2),
        method_request("gradient", smooth=copies),
        batch_size=4,
    )
    torch.testing.assert_close(smoothed.maps, smoothgrad.maps, rtol=1e-10, atol=1e-14)
    assert smoothed.evaluations == 7


@pytest.mark.parametrize("name", METHODS)
def test_the_mean_of_copies_one_by_one(network, images, name):
    """Copies are explained for the class of the sample, and draw what the sample draws."""
    model, x, sigma = network("cnn"), images(2), 0.3
    seeds = sample_seeds(5, "sample", ["0", "1"])
    request = method_request(name, smooth=NoisyCopies(3, sigma), **METHODS[name])
    (found,) = run(model, x, request, batch_size=5)
    span = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, 1, 1, 1)
    total = torch.zeros_like(x)
    for copy in range(3):
        noisy = x + sigma * span * standard_normal(x, seeds, "noise", copy)
        for row in range(2):
            target = int(found.index[row])
            if request.target == "logit_pred":
                alone = method_request(name, target=target, **METHODS[name])
            else:
                alone = method_request(name, target="prob_true", **METHODS[name])
            (one,) = attribute(
                PlainEvaluator(model),
                noisy[row : row + 1],
                [alone],
                seeds=[seeds[row]],
                labels=torch.tensor([target]),
            )
            total[row] += one.maps[0] / 3
    torch.testing.assert_close(found.maps, total, rtol=1e-9, atol=1e-13)


def test_steps_come_after_smoothing(network, images):
    copies = NoisyCopies(4, 0.2)
    steps = ["abs", "channel_sum"]
    after, plain = run(
        network("cnn"),
        images(2),
        method_request("gradient", id="a", smooth=copies, post=steps),
        method_request("gradient", id="b", smooth=copies),
    )
    assert after.maps.shape == (2, 1, 32, 32)
    torch.testing.assert_close(after.maps, plain.maps.abs().sum(1, keepdim=True))


def test_in_a_notebook_too(network, images):
    x, copies = images(2), NoisyCopies(3, 0.2)
    found = grad_cam(network("cnn"), x, smooth=copies, post=["relu", "normalize_max"])
    asked = method_request("grad_cam", smooth=copies, post=["relu", "normalize_max"])
    (expected,) = attribute(
        PlainEvaluator(network("cnn")), x, [asked], seeds=sample_seeds(0, "sample", ["0", "1"])
    )
    torch.testing.assert_close(found.maps, expected.maps)
    assert found.maps.shape == (2, 1, 32, 32)
    assert found.evaluations == 3
