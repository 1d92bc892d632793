"""Every method against Captum where it has the method, else against a plain loop over examples."""

from __future__ import annotations

import captum.attr._core.gradient_shap as captum_shap
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn
from torch.nn import functional as F

from gradattr.attribution import (
    Blur,
    Constant,
    Mean,
    Normalization,
    PlainEvaluator,
    Sample,
    Uniform,
    expected_gradients,
    gradient,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    linear,
    random_attribution,
    saliency,
    smoothgrad,
    smoothgrad_x_input,
    squaregrad,
    vargrad,
)
from gradattr.seeds import derive_seed

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already")

NETWORKS = ["linear", "mlp", "cnn", "resnet18"]
N = 3
SEEDS = [101, 202, 303]
CAPTUM_RULES = {
    "right": "riemann_right",
    "left": "riemann_left",
    "midpoint": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}


@pytest.fixture(params=NETWORKS)
def model(request, network):
    return network(request.param)


@pytest.fixture
def x(images):
    return images(N)


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def loop_gradient(model, point, index, scalar=lambda logits, c: logits[c]):
    """Gradient at one point (...), without a batch of anything else."""
    leaf = point.clone()[None].requires_grad_(True)
    scalar(model(leaf * 1)[0], index).backward()
    return leaf.grad[0]


def loop_normal(shape, seed, copy, purpose="noise"):
    generator = torch.Generator().manual_seed(derive_seed(seed, purpose, copy))
    return torch.randn(shape, generator=generator).double()


def loop_alpha(seed, copy):
    return derive_seed(seed, "alpha", copy) / 2**63


def noisy_gradients(model, x, samples, sigma):
    """(n, samples, ...) gradients over noisy copies, one by one."""
    rows = []
    for image, seed, c in zip(x, SEEDS, predicted(model, x), strict=True):
        spread = sigma * (image.max() - image.min())
        rows.append(
            torch.stack(
                [
                    loop_gradient(model, image + spread * loop_normal(image.shape, seed, k), c)
                    for k in range(samples)
                ]
            )
        )
    return torch.stack(rows)


def test_gradient_equals_captum(model, x, assert_close):
    expected = Saliency(model).attribute(x, target=predicted(model, x), abs=False)
    assert_close(gradient(model, x).maps, expected)


def test_saliency_equals_captum(model, x, assert_close):
    expected = Saliency(model).attribute(x, target=predicted(model, x))
    assert_close(saliency(model, x).maps, expected)


def test_input_x_gradient_equals_captum(model, x, assert_close):
    expected = InputXGradient(model).attribute(x, target=predicted(model, x))
    result = input_x_gradient(model, x)
    assert_close(result.maps, expected)
    with torch.no_grad():
        zero = model(torch.zeros_like(x)).gather(1, result.index[:, None])[:, 0]
    assert_close(result.baseline_score[:, None], zero[:, None])


@pytest.mark.parametrize("rule", CAPTUM_RULES)
def test_integrated_gradients_equals_captum(model, x, rule, assert_close):
    steps = 6
    start = torch.full_like(x[:1], 0.2)
    expected, delta = IntegratedGradients(model).attribute(
        x,
        baselines=start,
        target=predicted(model, x),
        n_steps=steps,
        method=CAPTUM_RULES[rule],
        return_convergence_delta=True,
    )
    result = integrated_gradients(model, x, steps=steps, rule=rule, baseline=0.2, batch_size=7)
    if rule == "trapezoid":
        # Captum's weights for this rule add up to (n - 1) / n.
        expected = expected * steps / (steps - 1)
    else:
        torch.testing.assert_close(result.completeness_gap, delta, rtol=1e-3, atol=1e-7)
    assert_close(result.maps, expected, 1e-6)


def test_integrated_gradients_from_one_input_per_image(network, x, assert_close):
    model = network("cnn")
    start = Blur(5, 2.0).draw(x, SEEDS, 0, Normalization())
    expected = IntegratedGradients(model).attribute(
        x, baselines=start, target=predicted(model, x), n_steps=9
    )
    result = integrated_gradients(model, x, steps=9, baseline=Blur(5, 2.0), batch_size=7)
    assert_close(result.maps, expected, 1e-6)


def test_integrated_gradients_takes_one_input_as_baseline_but_no_pool(network, images, x):
    model, start = network("cnn"), images(1, seed=4)
    given = integrated_gradients(model, x, steps=4, baseline=start)
    expected = IntegratedGradients(model).attribute(
        x, baselines=start, target=predicted(model, x), n_steps=4
    )
    torch.testing.assert_close(given.maps, expected)
    with pytest.raises(ValueError, match="one input"):
        integrated_gradients(model, x, baseline=images(3, seed=4))


def test_gradient_shap_equals_captum_given_its_draws(model, x, images, monkeypatch, assert_close):
    samples, stdev = 3, 0.3
    pool = images(5, seed=2)
    target = predicted(model, x)
    draws = []
    for k in range(samples):
        alphas = torch.tensor([loop_alpha(seed, k) for seed in SEEDS]).double().numpy()
        monkeypatch.setattr(captum_shap.np.random, "uniform", lambda *_, a=alphas: a)
        noise = torch.stack([loop_normal(x.shape[1:], seed, k) for seed in SEEDS])
        starts = pool[[derive_seed(seed, "baseline", k) % len(pool) for seed in SEEDS]]
        draws.append(
            captum_shap.InputBaselineXGradient(model).attribute(
                x + stdev * noise, baselines=starts, target=target
            )
        )
    result = gradient_shap(
        model, x, baseline=pool, samples=samples, stdev=stdev, seeds=SEEDS, batch_size=5
    )
    assert_close(result.maps, torch.stack(draws).mean(0), 1e-6)
    with torch.no_grad():
        expected_score = model(pool)[:, target].mean(0)
    assert_close(result.baseline_score[:, None], expected_score[:, None])


def test_expected_gradients_equals_a_loop(model, x, images, assert_close):
    samples, pool = 3, images(5, seed=2)
    expected = []
    for image, seed, c in zip(x, SEEDS, predicted(model, x), strict=True):
        draws = []
        for k in range(samples):
            start = pool[derive_seed(seed, "baseline", k) % len(pool)]
            point = start + loop_alpha(seed, k) * (image - start)
            draws.append((image - start) * loop_gradient(model, point, c))
        expected.append(torch.stack(draws).mean(0))
    result = expected_gradients(model, x, baseline=pool, samples=samples, seeds=SEEDS)
    assert_close(result.maps, torch.stack(expected), 1e-6)


@pytest.mark.parametrize("start", [Mean(), Constant(0.7), Blur(5, 1.0)])
def test_expected_gradients_from_one_baseline_equals_a_loop(network, x, start, assert_close):
    model = network("cnn")
    starts = start.draw(x, SEEDS, 0, Normalization())
    expected = []
    for image, x0, seed, c in zip(x, starts, SEEDS, predicted(model, x), strict=True):
        draws = [loop_gradient(model, x0 + loop_alpha(seed, k) * (image - x0), c) for k in range(6)]
        expected.append((image - x0) * torch.stack(draws).mean(0))
    result = expected_gradients(model, x, baseline=start, samples=6, seeds=SEEDS, batch_size=7)
    assert_close(result.maps, torch.stack(expected), 1e-6)
    index = result.index[:, None]
    with torch.no_grad():
        assert_close(result.baseline_score[:, None], model(starts).gather(1, index))


def test_the_smooth_family_equals_loops(model, x, assert_close):
    gradients = noisy_gradients(model, x, 3, 0.15)
    common = {"samples": 3, "sigma": 0.15, "seeds": SEEDS, "batch_size": 7}
    mean = gradients.mean(1)
    assert_close(smoothgrad(model, x, **common).maps, mean, 1e-6)
    assert_close(smoothgrad_x_input(model, x, **common).maps, x * mean, 1e-6)
    assert_close(squaregrad(model, x, **common).maps, gradients.square().mean(1), 1e-6)
    variance = vargrad(model, x, **common).maps
    expected = gradients.var(1, unbiased=False)
    # A linear model's variance is rounding of its gradients.
    assert (variance - expected).abs().max() <= 1e-6 * expected.max() + 1e-25


SCALARS = {
    "logit": lambda logits, c: logits[c],
    "prob": lambda logits, c: logits.softmax(0)[c],
    "loss": lambda logits, c: F.cross_entropy(logits[None], torch.as_tensor(c)[None]),
}


@pytest.mark.parametrize(
    "target", ["logit_pred", "logit_true", "loss_true", "loss_pred", "prob_pred", 4]
)
def test_every_target_equals_a_loop(network, x, target, assert_close):
    model, labels = network("cnn"), torch.tensor([5, 0, 2])
    kind, which = ("logit", "") if target == 4 else target.split("_")
    index = {"pred": predicted(model, x), "true": labels}.get(which, torch.full((N,), 4))
    expected = torch.stack(
        [loop_gradient(model, image, c, SCALARS[kind]) for image, c in zip(x, index, strict=True)]
    )
    result = gradient(model, x, target, labels=labels)
    assert_close(result.maps, expected)
    assert torch.equal(result.index, index)
    with torch.no_grad():
        scores = [SCALARS[kind](row, c) for row, c in zip(model(x), index, strict=True)]
    torch.testing.assert_close(result.score, torch.stack(scores))


@pytest.mark.parametrize("target", ["logit_true", "loss_true"])
def test_true_targets_need_labels(network, x, target):
    with pytest.raises(ValueError, match="needs a label"):
        gradient(network("cnn"), x, target)
    with pytest.raises(ValueError, match="needs a label"):
        gradient(network("cnn"), x, target, labels=torch.tensor([1, -1, 0]))


def test_the_predicted_class_is_that_of_the_clean_image(network, x):
    model = network("cnn")
    noisy = smoothgrad(model, x, samples=3, sigma=5.0, seeds=SEEDS)
    assert torch.equal(noisy.index, predicted(model, x))
    fixed = [
        smoothgrad(model, x[i : i + 1], int(c), samples=3, sigma=5.0, seeds=SEEDS[i : i + 1])
        for i, c in enumerate(noisy.index)
    ]
    torch.testing.assert_close(noisy.maps, torch.cat([one.maps for one in fixed]))


def test_closed_forms_of_a_linear_model(network, images, x, assert_close):
    model, pool = network("linear"), images(4, seed=3)
    weight = model[1].weight.detach().view(-1, 3, 32, 32)
    rows = weight[predicted(model, x)]
    assert_close(gradient(model, x).maps, rows)
    assert_close(smoothgrad(model, x, samples=4).maps, rows)
    assert_close(squaregrad(model, x, samples=4).maps, rows.square())
    assert vargrad(model, x, samples=4).maps.max() < 1e-25
    for rule in CAPTUM_RULES:
        result = integrated_gradients(model, x, steps=3, rule=rule, baseline=0.4)
        assert_close(result.maps, (x - 0.4) * rows)
        assert result.completeness_gap.abs().max() < 1e-10
    single = Sample(pool[:1])
    assert_close(expected_gradients(model, x, baseline=single).maps, (x - pool[:1]) * rows)
    result = input_x_gradient(model, x)
    bias = model[1].bias.detach()[result.index]
    torch.testing.assert_close(result.baseline_score, bias)
    assert result.completeness_gap.abs().max() < 1e-10


def test_linear_is_the_row_of_the_class_that_the_model_predicts(network, x, assert_close):
    model, control = network("cnn"), network("linear")
    result = linear(model, x, linear_model=control)
    weight = control[1].weight.detach().view(-1, 3, 32, 32)
    assert_close(result.maps, weight[predicted(model, x)])
    with torch.no_grad():
        torch.testing.assert_close(result.score, model(x).amax(1))


def test_random_is_standard_normal_by_seed_and_not_the_noise_of_others(network, x):
    first = random_attribution(network("cnn"), x, seeds=SEEDS).maps
    assert torch.equal(first[1], loop_normal(x.shape[1:], 202, 0, "random"))
    assert not torch.equal(first[1], loop_normal(x.shape[1:], 202, 0))
    assert not torch.equal(first, random_attribution(network("cnn"), x, seed=1).maps)


def test_seed_decides_when_no_seeds_are_given(network, x):
    model = network("cnn")
    draws = [smoothgrad(model, x, samples=2, seed=seed).maps for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_float32_agrees_with_float64_through_the_same_noise(x):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 20), nn.Softplus(), nn.Linear(20, 6))
    single = smoothgrad(model, x.float(), samples=4, seeds=SEEDS).maps
    double = smoothgrad(model.double(), x, samples=4, seeds=SEEDS).maps
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("shape", [(7,), (2, 9), (1, 4, 4, 4)])
def test_inputs_of_any_shape(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.rand(4, *shape)
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
        model(x)
    for method in (gradient, saliency, input_x_gradient, smoothgrad, integrated_gradients):
        assert method(model, x).maps.shape == x.shape
    assert expected_gradients(model, x, baseline=Uniform()).maps.shape == x.shape


def test_a_module_keeps_its_modes_and_its_input_is_not_changed(x):
    model = nn.Sequential(
        nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(), nn.Linear(3072, 4)
    ).double()
    model[3].eval()
    moved = x - 0.5
    before = moved.clone()
    with torch.no_grad():
        first, second = gradient(model, moved), gradient(model, moved)
    assert torch.equal(first.maps, second.maps)
    assert torch.equal(moved, before)
    assert [module.training for module in model] == [True, True, True, False]


def test_an_evaluator_does_as_well_as_a_module(network, x):
    model = network("cnn")
    assert torch.equal(gradient(PlainEvaluator(model), x).maps, gradient(model, x).maps)


def test_a_model_without_a_gradient_says_so(x):
    class Constantly(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3, dtype=x.dtype)

    with pytest.raises(ValueError, match="not a differentiable function"):
        gradient(Constantly(), x)
