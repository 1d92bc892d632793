"""Attacks stay in their budget, find the worst case where it is known, and leave no trace."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradattr.errors import UsageError
from gradattr.retraining import (
    Adversary,
    Augmentation,
    Recipe,
    evaluate,
    evaluate_robust,
    perturb,
    train_classifier,
)
from gradattr.retraining.adversary import random_start

NORMS = ("l2", "linf")


def linear(weight):
    """Two logits (-f/2, f/2) with f = <weight, x>, in float64."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-weight / 2, weight / 2]))
    return model


def net(seed=0, channels=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 4, 3)
        ).double()


def images(seed, n=3, channels=2, side=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, side, side, generator=generator, dtype=torch.float64)


def plain_attack(model, x, y, adversary):
    """The definition, image by image, coordinate bounds as scalars."""
    ones = (1.0,) * x.shape[1]
    scale = torch.tensor(adversary.scale or ones, dtype=x.dtype)[:, None, None]
    low = torch.tensor(adversary.low or (-math.inf,) * x.shape[1], dtype=x.dtype)[:, None, None]
    high = torch.tensor(adversary.high or (math.inf,) * x.shape[1], dtype=x.dtype)[:, None, None]
    step = adversary.step_size or 2.5 * adversary.eps / adversary.steps
    result = []
    for image, label in zip(x, y, strict=True):
        delta = torch.zeros_like(image)
        for _ in range(adversary.steps):
            leaf = delta.clone().requires_grad_(True)
            F.cross_entropy(model((image + scale * leaf)[None]), label[None]).backward()
            if adversary.norm == "linf":
                delta = (delta + step * leaf.grad.sign()).clamp(-adversary.eps, adversary.eps)
            else:
                delta = delta + step * leaf.grad / leaf.grad.norm()
                delta = delta * min(1.0, adversary.eps / delta.norm().item())
            delta = ((image + scale * delta).clamp(low, high) - image) / scale
        result.append(image + scale * delta)
    return torch.stack(result)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("step_size", [None, 0.11])
@pytest.mark.parametrize("bounded", [False, True])
def test_equals_the_definition(norm, step_size, bounded):
    bounds = {"scale": (2.0, 0.5), "low": (0.0, 0.1), "high": (0.9, 1.0)} if bounded else {}
    adversary = Adversary(norm, 0.3, steps=5, step_size=step_size, **bounds)
    x, y = images(1).clamp(0.1, 0.9), torch.tensor([0, 2, 1])
    expected = plain_attack(net(), x, y, adversary)
    torch.testing.assert_close(perturb(net(), x, y, adversary), expected, rtol=0, atol=1e-12)
    assert (expected - x).abs().max() > 0.1


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(1e-3, 10),
    steps=st.integers(1, 4),
    start=st.sampled_from(["zero", "random"]),
    scale=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    seed=st.integers(0, 1000),
)
def test_in_the_ball_and_in_the_bounds(norm, eps, steps, start, scale, seed):
    adversary = Adversary(
        norm, eps, steps=steps, start=start, scale=scale, low=(0.0, 0.0), high=(1.0, 1.0)
    )
    x, y = images(seed), torch.tensor([0, 2, 1])
    attacked = perturb(net(seed), x, y, adversary, seed=seed)
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    units = torch.tensor(scale, dtype=torch.float64)[:, None, None]
    delta = ((attacked - x) / units).flatten(1)
    sizes = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
    assert (sizes <= eps * (1 + 1e-9)).all()


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(0.01, 3),
    steps=st.integers(1, 8),
    scale=st.floats(0.2, 5),
    seed=st.integers(0, 1000),
)
def test_worst_case_of_a_linear_model(norm, eps, steps, scale, seed):
    """max over the ball of log(1 + exp(-y f)): f moves by -y eps times the dual norm of w."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, generator=generator, dtype=torch.float64)
    x, y = images(seed, n=4, channels=3, side=2), torch.tensor([0, 1, 1, 0])
    model, sign = linear(weight), (2 * y - 1).double()
    adversary = Adversary(norm, eps, steps=steps, scale=(scale,) * 3)
    attacked = perturb(model, x, y, adversary)
    dual = weight.norm() if norm == "l2" else weight.abs().sum()
    margins = sign * (x.flatten(1) @ weight) - eps * scale * dual
    expected = F.softplus(-margins)
    found = F.cross_entropy(model(attacked), y, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_one_l2_step_on_a_linear_model():
    weight = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64)
    x = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    adversary = Adversary("l2", 2.0, steps=1, step_size=0.5)
    attacked = perturb(linear(weight), x, torch.tensor([0, 1]), adversary).flatten(1)
    direction = weight / 5
    torch.testing.assert_close(attacked, 0.5 * torch.stack([direction, -direction]))


def test_eps_in_pixels_is_an_attack_on_pixels():
    """Normalising inside the model, or in 'scale' and the bounds: the same pixels."""
    mean, std = 0.3, 0.2
    model = net(channels=1)
    inside = nn.Sequential(Normalise(mean, std), model)
    pixels, y = images(3, channels=1), torch.tensor([0, 2, 1])
    for norm, eps in (("l2", 0.6), ("linf", 0.1)):
        expected = perturb(inside, pixels, y, Adversary(norm, eps, low=(0.0,), high=(1.0,)))
        adversary = Adversary(
            norm, eps, scale=(1 / std,), low=(-mean / std,), high=((1 - mean) / std,)
        )
        found = perturb(model, (pixels - mean) / std, y, adversary)
        torch.testing.assert_close(found * std + mean, expected, rtol=0, atol=1e-12)


class Normalise(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_zero_moves_nothing(norm):
    x = images(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    nn.init.zeros_(flat[1].weight)
    assert torch.equal(perturb(flat, x, torch.tensor([0, 1, 2]), Adversary(norm, 1.0)), x)


def test_tiny_gradients_still_point_somewhere():
    """Where the model is sure, gradients are far below the smallest square of a float32."""
    model = linear(torch.tensor([3e-25, 0, -4e-25, 0])).float()
    attacked = perturb(model, torch.zeros(1, 1, 2, 2), torch.tensor([0]), Adversary("l2", 2.0))
    torch.testing.assert_close(attacked.flatten(), torch.tensor([1.2, 0.0, -1.6, 0.0]))


def test_images_out_of_bounds_go_no_further():
    x = torch.tensor([-0.5, 0.5, 1.5, 0.0]).double().reshape(1, 1, 2, 2)
    weight = torch.tensor([-1.0, 1.0, 1.0, -1.0]).double()
    adversary = Adversary("linf", 0.2, low=(0.0,), high=(1.0,))
    attacked = perturb(linear(weight), x, torch.tensor([0]), adversary).flatten()
    torch.testing.assert_close(attacked, torch.tensor([-0.5, 0.7, 1.5, 0.0]).double())


@pytest.mark.parametrize("norm", NORMS)
def test_images_are_attacked_one_by_one(norm):
    x, y = images(5, n=4), torch.tensor([0, 2, 1, 1])
    adversary = Adversary(norm, 0.4, steps=3)
    whole = perturb(net(), x, y, adversary)
    for row in range(4):
        alone = perturb(net(), x[row : row + 1], y[row : row + 1], adversary)
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball(norm):
    adversary = Adversary(norm, 2.0, start="random")
    start = random_start(adversary, (2000, 1, 1, 3), seed=1)
    assert torch.equal(start, random_start(adversary, (2000, 1, 1, 3), seed=1))
    assert not torch.equal(start, random_start(adversary, (2000, 1, 1, 3), seed=2))
    flat = start.flatten(1)
    sizes = flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)
    assert sizes.max() <= 2.0 * (1 + 1e-6)
    # Half of the volume of a ball in three dimensions lies within 2 ** (-1/3) of its radius.
    inner = (sizes < 2.0 * 0.5 ** (1 / 3)).double().mean().item()
    assert inner == pytest.approx(0.5, abs=0.05)
    assert flat.mean(0).abs().max() < 0.1


def test_random_start_is_used_and_is_a_function_of_the_seed():
    adversary = Adversary("linf", 0.5, steps=1, step_size=0.01, start="random")
    x, y = images(0), torch.tensor([0, 1, 2])
    first, again, other = (perturb(net(), x, y, adversary, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first - x).abs().max() > 0.4


def test_the_model_is_left_as_it_was(make_net, few):
    x, y = few
    model = make_net()
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    F.cross_entropy(model(x), y).backward()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    random_state = torch.get_rng_state()
    attacked = perturb(model, x, y, Adversary("l2", 1.0, start="random"))
    assert not torch.equal(attacked, x)
    assert not attacked.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name != "0.weight")
        if grads[name] is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, grads[name])
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_failing_model_is_left_as_it_was(few):
    model = nn.Sequential(nn.Flatten(), nn.Linear(63, 10)).train()
    with pytest.raises(RuntimeError):
        perturb(model, *few, Adversary("l2", 1.0))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_attacks_raise_the_loss_of_a_trained_model(digits):
    train, test = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train_classifier(model, *train, Recipe(batch_size=64, epochs=8))
    clean = evaluate(model, *test)
    assert clean.accuracy > 0.9
    for adversary in (Adversary("linf", 0.2), Adversary("l2", 1.0)):
        weak = Adversary(adversary.norm, adversary.eps / 4)
        attacked = [evaluate_robust(model, *test, a) for a in (weak, adversary)]
        assert clean.loss < attacked[0].loss < attacked[1].loss
        assert clean.accuracy > attacked[0].accuracy > attacked[1].accuracy
    images = perturb(model, *test, adversary)
    assert attacked[1].accuracy == evaluate(model, images, test[1]).accuracy


@settings(max_examples=15, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    start=st.sampled_from(["zero", "random"]),
    optimizer=st.sampled_from(["sgd", "adam"]),
    seed=st.integers(0, 2**40),
)
def test_eps_zero_is_standard_training_bit_for_bit(few, make_net, norm, start, optimizer, seed):
    plain = Recipe(
        optimizer=optimizer,
        lr=0.01,
        batch_size=20,
        epochs=2,
        stop_below=0.0,
        augment=Augmentation(1),
        seed=seed,
    )
    zero = Recipe(**{**plain.__dict__, "adversary": Adversary(norm, 0.0, start=start)})
    results, models = [], []
    for recipe in (plain, zero):
        models.append(make_net())
        results.append(train_classifier(models[-1], *few, recipe, test=few))
    state = models[1].state_dict()
    assert all(torch.equal(v, state[n]) for n, v in models[0].state_dict().items())
    assert [(e.loss, e.test_loss) for e in results[0].history] == [
        (e.loss, e.test_loss) for e in results[1].history
    ]
    assert results[0].robust_test_accuracy is None
    assert results[1].robust_test_accuracy == results[1].last_epoch_test_accuracy


def test_adversarial_training_makes_robust(digits):
    train, test = digits
    adversary = Adversary("linf", 0.1, low=(0.0,), high=(1.0,))
    robust = {}
    for name in ("standard", "adversarial"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        recipe = Recipe(
            batch_size=64, epochs=12, adversary=adversary if name == "adversarial" else None
        )
        result = train_classifier(model, *train, recipe, test=test)
        robust[name] = evaluate_robust(model, *test, adversary).accuracy
    assert robust["adversarial"] > robust["standard"] + 0.15
    assert result.robust_test_accuracy == robust["adversarial"]
    assert all(epoch.robust_test_accuracy is None for epoch in result.history[:-1])
    assert result.history[-1].robust_test_accuracy == robust["adversarial"]
    assert result.metrics()["robust_test_accuracy"] == robust["adversarial"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "l1"}, "norm is 'l1', expected l2 or linf"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"eps": math.nan}, "eps is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"step_size": 0.0}, "step_size is 0.0"),
        ({"start": "far"}, "start is 'far'"),
        ({"scale": (1.0, 0.0)}, "scale is"),
        ({"low": (1.0,), "high": (0.0,)}, "low is"),
        ({"low": (0.0,), "high": (1.0, 1.0)}, "low is"),
    ],
)
def test_impossible_adversaries(fields, message):
    with pytest.raises(UsageError, match=message):
        Adversary(**{"norm": "l2", "eps": 1.0, **fields})


def test_an_adversary_for_other_channels():
    adversary = Adversary("l2", 1.0, scale=(1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="scale has 3 values, the images have 2 channels"):
        perturb(net(), images(0), torch.tensor([0, 1, 2]), adversary)
