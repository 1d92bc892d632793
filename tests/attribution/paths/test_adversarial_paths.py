"""AGI against a loop, one image and one class at a time, and where it is known exactly."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.attribution import Normalization, agi, method_request
from gradattr.attribution.paths.adversarial_paths import other_classes

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def slope_of(model, point, c, *, logit=False):
    leaf = point[None].clone().requires_grad_(True)
    out = model(leaf * 1)
    return torch.autograd.grad((out if logit else out.softmax(1))[0, c], leaf)[0][0]


def plain_agi(model, image, classes, iterations, eps, step_from="current", logit=False):
    """The published loop in the space of pixels in [0, 1]: the mean of its classes, and ends."""
    c = int(model(image[None].clone()).argmax())
    total, ends = torch.zeros_like(image), []
    for t in classes(c):
        point = image.clone()
        for _ in range(iterations):
            if int(model(point[None].clone()).argmax()) == t:
                break
            base = image if step_from == "original" else point
            towards = slope_of(model, point, t).sign()
            own = slope_of(model, point, c, logit=logit)
            moved = (base + eps * towards).clamp(0, 1)
            total -= own * (moved - base)
            point = moved
        ends.append(point)
    return total / len(ends), torch.stack(ends)


def all_others(c):
    return [t for t in range(6) if t != c]


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "smooth"])
@pytest.mark.parametrize("step_from", ["current", "original"])
def test_map_of_the_loop(network, images, assert_close, name, step_from):
    model, x = network(name), images(3)
    found = agi(model, x, iterations=5, eps=0.04, step_from=step_from, batch_size=4)
    pairs = [plain_agi(model, image, all_others, 5, 0.04, step_from) for image in x]
    assert_close(found.maps, torch.stack([one for one, _ in pairs]))
    assert found.evaluations == 2 * 5 * 5
    if step_from == "original":
        assert found.completeness_gap is None
        return
    for i, (_, ends) in enumerate(pairs):
        score = model(ends).softmax(1)[:, found.index[i]].mean()
        assert found.baseline_score[i].item() == pytest.approx(score.item())


def test_the_published_code_never_gets_further_than_a_step(network, images):
    model, x = network("smooth"), images(1)
    _, ends = plain_agi(model, x[0], all_others, 6, 0.05, "original")
    assert (ends - x).abs().max() <= 0.05 + 1e-12
    _, moved = plain_agi(model, x[0], all_others, 6, 0.05)
    assert (moved - x).abs().max() > 0.09


def test_steps_are_of_pixels_whatever_the_normalisation(network, images, assert_close):
    """The same model behind a normalisation: the map of the input it is given."""
    model, pixels = network("cnn"), images(2)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))

    class Unnormalised(torch.nn.Module):
        def forward(self, x):
            return model(x * std + mean)

    space = Normalization.from_mean_std(MEAN, STD)
    found = agi(Unnormalised(), (pixels - mean) / std, iterations=4, normalization=space)
    assert_close(found.maps, agi(model, pixels, iterations=4).maps)


def test_targets_and_fewer_classes(network, images, assert_close):
    model, x = network("smooth"), images(2)

    def two(c):
        others = all_others(c)
        return [others[0], others[2]]

    found = agi(model, x, "logit_pred", iterations=3, classes=2)
    expected = [plain_agi(model, image, two, 3, 0.05, logit=True)[0] for image in x]
    assert_close(found.maps, torch.stack(expected))
    assert found.evaluations == 2 * 3 * 2


def test_it_adds_up_when_steps_are_small(network, images):
    model, x = network("smooth"), images(2)
    gaps = [
        agi(model, x, iterations=n, eps=0.2 / n).completeness_gap.abs().max() for n in (5, 20, 80)
    ]
    assert gaps[2] < 0.4 * gaps[1] < 0.16 * gaps[0]


def test_of_a_linear_model_the_logit_is_divided_exactly(network, images):
    found = agi(network("linear"), images(3), "logit_pred", iterations=4)
    assert found.completeness_gap.abs().max() < 1e-9


@given(st.integers(2, 30), st.data())
@settings(max_examples=40, deadline=None)
def test_other_classes_are_others_and_spread(count, data):
    wanted = data.draw(st.integers(1, count - 1))
    index = torch.arange(count)
    found = other_classes(index, count, wanted)
    assert found.shape == (count, wanted)
    for c, row in enumerate(found.tolist()):
        assert c not in row
        assert row == sorted(set(row))
        assert 0 <= row[0] <= row[-1] < count
        gaps = [b - a for a, b in pairwise(row)]
        assert not gaps or max(gaps) <= (count - 1) // wanted + 2


@given(st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_batch_size_does_not_matter(network, images, batch_size, n):
    model, x = network("smooth"), images(n)
    one = agi(model, x, iterations=3, batch_size=batch_size)
    torch.testing.assert_close(one.maps, agi(model, x, iterations=3, batch_size=64).maps)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"iterations": 0}, "iterations: 0"),
        ({"classes": 0}, "classes: 0"),
        ({"eps": 0.0}, "eps: 0.0"),
        ({"step_from": "there"}, "'current' or 'original'"),
    ],
)
def test_what_cannot_be(parameters, text):
    with pytest.raises(ValueError, match=text):
        method_request("agi", **parameters)


def test_a_model_of_one_class_has_no_other():
    with pytest.raises(ValueError, match="has but one"):
        agi(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1)), torch.rand(1, 1, 2, 2))
