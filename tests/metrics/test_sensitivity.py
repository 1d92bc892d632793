"""Sensitivity and infidelity: against loops, captum and closed forms on linear models."""

from __future__ import annotations

import captum.metrics
import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution import Normalization, PlainEvaluator, attribute, method_request
from gradattr.errors import UsageError
from gradattr.metrics.infidelity import (
    GaussianPerturbation,
    Perturbation,
    SquarePatch,
    infidelity,
)
from gradattr.metrics.masked_forwards import Score
from gradattr.metrics.sensitivity import Norm, ball_noise, sensitivity

SEEDS = [11, 12, 13, 14, 15]
METHODS = ("gradient", "saliency", "input_x_gradient")


def network(kind: str = "mlp") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "linear":
            layers: list[nn.Module] = [nn.Linear(108, 4)]
        else:
            layers = [nn.Linear(108, 20), nn.Softplus(), nn.Linear(20, 4)]
    return nn.Sequential(nn.Flatten(), *layers).double().eval()


def images(n: int = 5) -> Tensor:
    return torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_sensitivity_against_a_loop(norm: Norm) -> None:
    model, x, samples = network(), images(), 6
    wide = Normalization.from_mean_std([0.5, 0.4, 0.3], [0.2, 0.5, 1.0])
    unit = torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    requests = [method_request(name) for name in METHODS]
    found = sensitivity(
        PlainEvaluator(model),
        x,
        requests,
        seeds=SEEDS,
        radius=0.3,
        norm=norm,
        samples=samples,
        normalization=wide,
        batch_size=4,
    )
    index = model(x).argmax(1)

    def explain(points: Tensor, name: str) -> Tensor:
        leaf = points.clone().requires_grad_(True)
        (grad,) = torch.autograd.grad(model(leaf).gather(1, index[:, None]).sum(), leaf)
        if name == "input_x_gradient":
            return grad * points
        return grad.abs() if name == "saliency" else grad

    for name, measures in zip(METHODS, found, strict=True):
        before, changes, slopes = explain(x, name), [], []
        for copy in range(samples):
            d = ball_noise(x, SEEDS, 0.3, norm, copy)
            change = (explain(x + unit * d, name) - before).flatten(1).norm(dim=1)
            changes.append(change / before.flatten(1).norm(dim=1))
            slopes.append(change / d.flatten(1).norm(dim=1))
        torch.testing.assert_close(measures.max_sensitivity, torch.stack(changes).amax(0).detach())
        torch.testing.assert_close(measures.mean_sensitivity, torch.stack(changes).mean(0).detach())
        torch.testing.assert_close(measures.local_lipschitz, torch.stack(slopes).amax(0).detach())


def test_sensitivity_is_captums() -> None:
    model, x, samples = network(), images(), 7
    index = model(x).argmax(1)
    draws = torch.stack([ball_noise(x, SEEDS, 0.02, "linf", copy) for copy in range(samples)], 1)

    def explain(points: Tensor) -> Tensor:
        leaf = points.detach().clone().requires_grad_(True)
        classes = index.repeat_interleave(len(points) // len(x))
        with torch.enable_grad():
            score = model(leaf).gather(1, classes[:, None]).sum()
        (grad,) = torch.autograd.grad(score, leaf)
        return grad

    expected = captum.metrics.sensitivity_max(
        lambda points, **_: (explain(points if isinstance(points, Tensor) else points[0]),),
        x,
        perturb_func=lambda points, _radius: points + draws.flatten(0, 1),
        n_perturb_samples=samples,
    )
    (found,) = sensitivity(
        PlainEvaluator(model), x, [method_request("gradient")], seeds=SEEDS, samples=samples
    )
    torch.testing.assert_close(found.max_sensitivity, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_draws_fill_the_ball(norm: Norm) -> None:
    draws = ball_noise(torch.zeros(2000, 1, 1, 2, dtype=torch.float64), range(2000), 0.5, norm, 0)
    size = draws.flatten(1).norm(dim=1) if norm == "l2" else draws.flatten(1).abs().amax(1)
    assert size.max() <= 0.5
    # Uniform in the plane: the share within half the radius is a quarter.
    assert (size < 0.25).double().mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_gradient_of_a_linear_model_is_not_sensitive_and_not_unfaithful() -> None:
    model, x = PlainEvaluator(network("linear")), images()
    requests = [method_request("gradient"), method_request("input_x_gradient")]
    still, moving = sensitivity(model, x, requests, seeds=SEEDS, radius=0.1)
    assert still.max_sensitivity.max() < 1e-12
    assert still.local_lipschitz.max() < 1e-12
    assert moving.max_sensitivity.min() > 0.01
    result = attribute(model, x, [method_request("gradient")], seeds=SEEDS)[0]
    for perturbation in (GaussianPerturbation(0.3), SquarePatch()):
        found, double, reverse = infidelity(
            model,
            x,
            [result.maps, 2 * result.maps, -result.maps],
            result.index,
            seeds=SEEDS,
            perturbation=perturbation,
            score="logit",
            samples=20,
        )
        assert found.infidelity.max() < 1e-24
        torch.testing.assert_close(found.scale, torch.ones(5, dtype=torch.float64))
        torch.testing.assert_close(double.scale, torch.full((5,), 0.5, dtype=torch.float64))
        assert double.scaled.max() < 1e-24
        # (I^T A)^2 from doubling, (2 I^T A)^2 from the reverse.
        torch.testing.assert_close(reverse.infidelity, 4 * double.infidelity)


@pytest.mark.parametrize("perturbation", [GaussianPerturbation(0.2), SquarePatch(2), SquarePatch()])
def test_infidelity_is_captums(perturbation: Perturbation) -> None:
    model, x, samples = network(), images(), 9
    index = model(x).argmax(1)
    maps = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    draws = torch.stack(
        [perturbation.draw(x, SEEDS, copy, Normalization()) for copy in range(samples)], 1
    ).flatten(0, 1)
    scores: tuple[Score, Score] = ("logit", "prob")
    for score in scores:
        forward = model if score == "logit" else nn.Sequential(model, nn.Softmax(1))
        (found,) = infidelity(
            PlainEvaluator(model),
            x,
            [maps],
            index,
            seeds=SEEDS,
            perturbation=perturbation,
            samples=samples,
            score=score,
            batch_size=8,
        )
        for normalize, ours in ((False, found.infidelity), (True, found.scaled)):
            expected = captum.metrics.infidelity(
                forward,
                lambda points: (draws, points - draws),
                x,
                maps,
                target=index,
                n_perturb_samples=samples,
                normalize=normalize,
            )
            torch.testing.assert_close(ours, expected.detach(), rtol=1e-9, atol=1e-14)


def test_contributions_are_captums_multiplied_by_inputs() -> None:
    model, x, samples, patch = network(), images(), 9, SquarePatch(3)
    index = model(x).argmax(1)
    maps = x * torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    draws = torch.stack(
        [patch.draw(x, SEEDS, copy, Normalization()) for copy in range(samples)], 1
    ).flatten(0, 1)
    decorate = captum.metrics.infidelity_perturb_func_decorator(multiply_by_inputs=True)
    expected = captum.metrics.infidelity(
        model,
        decorate(lambda points, _baselines: points - draws),
        x,
        maps,
        baselines=torch.zeros_like(x),
        target=index,
        n_perturb_samples=samples,
    )
    slopes, shares = infidelity(
        PlainEvaluator(model),
        x,
        [maps, maps],
        index,
        seeds=SEEDS,
        perturbation=patch,
        samples=samples,
        score="logit",
        references=[None, torch.zeros_like(x)],
    )
    torch.testing.assert_close(shares.infidelity, expected.detach(), rtol=1e-9, atol=1e-14)
    assert not torch.allclose(slopes.infidelity, shares.infidelity)


def test_contributions_of_a_linear_model_are_faithful() -> None:
    model, x = PlainEvaluator(network("linear")), images()
    x[:, :, 2] = 0
    result = attribute(model, x, [method_request("input_x_gradient")], seeds=SEEDS)[0]
    (found,) = infidelity(
        model,
        x,
        [result.maps],
        result.index,
        seeds=SEEDS,
        perturbation=SquarePatch(),
        score="logit",
        references=[torch.zeros_like(x)],
    )
    assert found.infidelity.max() < 1e-24


def test_the_best_scale_is_the_best() -> None:
    model, x = PlainEvaluator(network()), images()
    result = attribute(model, x, [method_request("gradient")], seeds=SEEDS)[0]
    one = infidelity(model, x, [result.maps], result.index, seeds=SEEDS)[0]
    for factor in (0.9, 1.1):
        scaled = factor * one.scale.view(-1, 1, 1, 1) * result.maps
        worse = infidelity(model, x, [scaled], result.index, seeds=SEEDS)[0]
        assert (worse.infidelity >= one.scaled).all()
        torch.testing.assert_close(worse.scaled, one.scaled)
    nothing = infidelity(model, x, [torch.zeros_like(x)], result.index, seeds=SEEDS)[0]
    assert (nothing.infidelity >= one.scaled).all()
    assert nothing.scaled.isnan().all()


def test_a_map_per_pixel_counts_for_every_channel() -> None:
    model, x = PlainEvaluator(network()), images()
    per_pixel = torch.rand(5, 1, 6, 6, dtype=torch.float64)
    index = torch.zeros(5, dtype=torch.long)
    one, spread = infidelity(
        model, x, [per_pixel, per_pixel.expand_as(x)], index, seeds=SEEDS, samples=5
    )
    torch.testing.assert_close(one.infidelity, spread.infidelity)


def test_nothing_depends_on_batch_size_neighbours_or_other_methods() -> None:
    model, x = PlainEvaluator(network()), images()
    requests = [method_request(n) for n in METHODS] + [method_request("smoothgrad", samples=3)]
    together = sensitivity(model, x, requests, seeds=SEEDS, samples=4, batch_size=64)
    maps = [r.maps for r in attribute(model, x, requests, seeds=SEEDS)]
    index = torch.tensor([0, 1, 2, 3, 0])
    faith = infidelity(model, x, maps, index, seeds=SEEDS, samples=6)
    for number in range(len(requests)):
        (alone,) = sensitivity(
            model, x[2:4], [requests[number]], seeds=SEEDS[2:4], samples=4, batch_size=3
        )
        (lonely,) = infidelity(
            model,
            x[2:4],
            [maps[number][2:4]],
            index[2:4],
            seeds=SEEDS[2:4],
            samples=6,
            batch_size=3,
        )
        for many, few in zip((*together[number], *faith[number]), (*alone, *lonely), strict=True):
            torch.testing.assert_close(many[2:4], few, rtol=1e-9, atol=1e-12)


def test_maps_that_are_zero_or_not_finite_are_nan() -> None:
    dead = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).double()
    nn.init.zeros_(dead[1].weight)  # type: ignore[arg-type]
    (found,) = sensitivity(
        PlainEvaluator(dead), images(), [method_request("gradient")], seeds=SEEDS, samples=2
    )
    assert found.max_sensitivity.isnan().all()
    assert found.local_lipschitz.tolist() == [0] * 5
    x = images()
    maps = torch.ones_like(x)
    maps[1, 0, 0, 0] = torch.nan
    one = infidelity(PlainEvaluator(network()), x, [maps], torch.zeros(5).long(), seeds=SEEDS)[0]
    for column in one:
        assert column.isnan().tolist() == [False, True, False, False, False]


def test_what_does_not_fit() -> None:
    model, x, request = PlainEvaluator(network()), images(), [method_request("gradient")]
    index = torch.zeros(5, dtype=torch.long)
    with pytest.raises(UsageError, match="radius 0"):
        sensitivity(model, x, request, seeds=SEEDS, radius=0)
    with pytest.raises(UsageError, match="4 seeds"):
        sensitivity(model, x, request, seeds=SEEDS[:4])
    with pytest.raises(UsageError, match="no method"):
        sensitivity(model, x, [], seeds=SEEDS)
    with pytest.raises(UsageError, match=r"a map of shape \(5, 2, 6, 6\)"):
        infidelity(model, x, [x[:, :2]], index, seeds=SEEDS)
    with pytest.raises(UsageError, match="classes of shape"):
        infidelity(model, x, [x], index[:2], seeds=SEEDS)
    with pytest.raises(UsageError, match="given for 1 maps of images"):
        infidelity(model, x, [x], index, seeds=SEEDS, references=[None, None])
    with pytest.raises(UsageError, match="expected for each a point of that shape, or None"):
        infidelity(model, x, [x], index, seeds=SEEDS, references=[x[:1]])
    with pytest.raises(UsageError, match="square of 7 pixels"):
        infidelity(model, x, [x], index, seeds=SEEDS, perturbation=SquarePatch(7))
    with pytest.raises(UsageError, match="sigma 0"):
        GaussianPerturbation(0)
