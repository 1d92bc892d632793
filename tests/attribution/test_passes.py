"""Laws of the engine: what may not matter, what is shared, how much is in flight."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradattr.attribution import (
    Blur,
    MethodRequest,
    Normalization,
    PlainEvaluator,
    Sample,
    Uniform,
    Unlearned,
    attribute,
    concatenate,
    integrated_gradients,
    method_request,
    smoothgrad,
    vargrad,
)
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sampling import AtInput, NoisyCopies, StraightPath

CLASSES = 4
SHAPE = (2, 6, 6)
_GENERATOR = torch.Generator().manual_seed(5)
POOL = Sample(torch.rand(3, *SHAPE, generator=_GENERATOR, dtype=torch.float64))


def _small(activation: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2),
            activation,
            nn.Flatten(),
            nn.Linear(16, 8),
            nn.Tanh(),
            nn.Linear(8, CLASSES),
        )
    return model.double().eval()


MODEL = _small(nn.ReLU(inplace=True))
SMOOTH = _small(nn.Softplus())
CONTROL = PlainEvaluator(nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double())

REQUESTS = (
    method_request("gradient"),
    method_request("saliency", target="loss_true"),
    method_request("input_x_gradient", target="prob_pred"),
    method_request("smoothgrad", samples=5),
    method_request("smoothgrad_x_input", samples=5),
    method_request("squaregrad", samples=5),
    method_request("vargrad", samples=5),
    method_request("smoothgrad", id="other noise", samples=5, sigma=0.3),
    method_request("smoothgrad", id="other target", samples=5, target="loss_true"),
    method_request("integrated_gradients", steps=7),
    method_request("integrated_gradients", id="uniform", steps=7, baseline=Uniform()),
    method_request("integrated_gradients", id="blur", steps=7, baseline=Blur(3, 1.0), target=2),
    method_request("integrated_gradients", id="pool", steps=7, baseline=POOL),
    method_request("expected_gradients", samples=6, baseline=POOL),
    method_request("expected_gradients", id="blurred", samples=6, baseline=Blur(3, 1.0)),
    method_request("gradient_shap", samples=6, stdev=0.1, baseline=Uniform()),
    method_request("uni", steps=4, iterations=3),
    method_request("expected_gradients", id="unlearned", samples=3, baseline=Unlearned(mu=1.0)),
    method_request("blur_ig", steps=3),
    method_request("guided_ig", steps=4, max_dist=0.2),
    method_request("agi", iterations=2),
    method_request("random"),
    method_request("linear", linear_model=CONTROL),
)


def inputs(n: int, seed: int) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return x, [seed * 100 + i for i in range(n)], labels


def run(x, seeds, labels, requests=REQUESTS, *, evaluator=None, batch_size=64):
    return attribute(
        evaluator or PlainEvaluator(MODEL),
        x,
        requests,
        seeds=seeds,
        labels=labels,
        normalization=Normalization((-1.0, -0.5), (1.0, 2.0), (0.0, 0.0)),
        batch_size=batch_size,
    )


def assert_same(ours, theirs, tolerance=1e-10):
    """Every tensor of every result, to rounding; 0 for bit by bit."""
    for one, other in zip(ours, theirs, strict=True):
        assert (one.method, one.status) == (other.method, other.status)
        for field in fields(one):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
            else:
                assert a == b


@given(st.integers(1, 5), st.integers(2, 30), st.integers(0, 50))
@settings(max_examples=12, deadline=None)
def test_batch_size_does_not_matter(n, batch_size, seed):
    data = inputs(n, seed)
    assert_same(run(*data, batch_size=batch_size), run(*data, batch_size=1))


@given(st.integers(2, 5), st.integers(1, 10), st.data())
@settings(max_examples=15, deadline=None)
def test_sharding_does_not_matter(n, batch_size, data):
    x, seeds, labels = inputs(n, 1)
    cut = data.draw(st.integers(1, n - 1))
    halves = [
        run(x[part], seeds[part], labels[part], batch_size=batch_size)
        for part in (slice(cut), slice(cut, n))
    ]
    joined = [concatenate(pair) for pair in zip(*halves, strict=True)]
    assert_same(joined, run(x, seeds, labels, batch_size=batch_size))


@given(st.permutations(range(5)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_samples_does_not_matter(order):
    x, seeds, labels = inputs(5, 2)
    shuffled = run(x[order], [seeds[i] for i in order], labels[order], batch_size=3)
    for one, other in zip(shuffled, run(x, seeds, labels, batch_size=3), strict=True):
        torch.testing.assert_close(one.maps, other.maps[order], rtol=1e-10, atol=1e-10)


@given(st.sets(st.sampled_from(range(len(REQUESTS))), min_size=1), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_methods_together_equal_methods_alone_bit_by_bit(chosen, batch_size):
    data = inputs(4, 3)
    together = run(*data, [REQUESTS[i] for i in chosen], batch_size=batch_size)
    for i, result in zip(chosen, together, strict=True):
        assert_same([result], run(*data, [REQUESTS[i]], batch_size=batch_size), 0)


@given(st.integers(0, 1000), st.floats(-1, 1), st.sampled_from(["logit_pred", "prob_pred", 1]))
@settings(max_examples=20, deadline=None)
def test_integrated_gradients_of_a_smooth_model_add_up(seed, start, target):
    x, _, _ = inputs(2, seed)
    result = integrated_gradients(SMOOTH, x, target, steps=32, baseline=start)
    assert result.completeness_gap.abs().max() < 1e-9
    total = result.maps.flatten(1).sum(1)
    torch.testing.assert_close(total, result.score - result.baseline_score)


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "trapezoid", "right", "left"])
def test_completeness_gap_of_a_cnn_is_below_one_percent_at_200_steps(network, images, rule):
    result = integrated_gradients(network("cnn"), images(6), steps=200, rule=rule)
    relative = result.completeness_gap / (result.score - result.baseline_score)
    assert relative.abs().max() < 0.01


def test_expected_gradients_add_up_in_expectation():
    x, seeds, labels = inputs(2, 6)
    for name in ("expected_gradients", "gradient_shap"):
        for baseline in (POOL, Uniform(), Blur(3, 1.0)):
            request = method_request(name, samples=3000, baseline=baseline)
            evaluator = PlainEvaluator(SMOOTH)
            (result,) = run(4 * x, seeds, labels, [request], evaluator=evaluator, batch_size=1000)
            claimed = (result.score - result.baseline_score).abs()
            assert (result.completeness_gap.abs() < 0.1 * claimed).all()


def test_the_mean_score_of_a_random_baseline_is_that_of_its_draws():
    x, seeds, labels = inputs(2, 6)
    request = method_request("expected_gradients", samples=3, baseline=Uniform())
    (result,) = run(x, seeds, labels, [request])
    normalization = Normalization((-1.0, -0.5), (1.0, 2.0), (0.0, 0.0))
    with torch.no_grad():
        scores = [
            MODEL(Uniform().draw(x, seeds, k, normalization)).gather(1, result.index[:, None])
            for k in range(3)
        ]
    torch.testing.assert_close(result.baseline_score, torch.cat(scores, 1).mean(1))


def test_without_noise_smoothgrad_is_the_gradient_and_vargrad_is_zero():
    x, _, _ = inputs(5, 4)
    result = smoothgrad(MODEL, x, sigma=0.0, samples=7, batch_size=4)
    (plain,) = run(x, range(5), None, [method_request("gradient")])
    torch.testing.assert_close(result.maps, plain.maps, rtol=1e-12, atol=1e-14)
    assert vargrad(MODEL, x, sigma=0.0, samples=7).maps.max() < 1e-28
    assert vargrad(MODEL, x, sigma=0.5, samples=1).maps.max() == 0


def test_vargrad_plus_squared_smoothgrad_is_squaregrad():
    mean, _, square, variance = run(*inputs(4, 7), REQUESTS[3:7])
    torch.testing.assert_close(square.maps, variance.maps + mean.maps.square())


@given(st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_never_more_points_in_flight_than_batch_size(watching, n, batch_size):
    evaluator = watching(MODEL)
    run(*inputs(n, 8), evaluator=evaluator, batch_size=batch_size)
    assert evaluator.largest <= batch_size


def test_full_micro_batches_are_used(watching):
    evaluator = watching(MODEL)
    calls = []
    original = evaluator.gradients
    evaluator.gradients = lambda h, *rest: calls.append(len(h)) or original(h, *rest)
    run(
        *inputs(8, 8), [method_request("smoothgrad", samples=10)], evaluator=evaluator, batch_size=4
    )
    assert calls == [4] * 20
    calls.clear()
    run(
        *inputs(2, 8), [method_request("smoothgrad", samples=10)], evaluator=evaluator, batch_size=8
    )
    assert calls == [8, 8, 4]


def test_methods_at_the_input_share_one_forward_pass(watching):
    evaluator = watching(MODEL)
    requests = [
        method_request("gradient"),
        method_request("saliency"),
        method_request("saliency", id="loss", target="loss_true"),
    ]
    run(*inputs(6, 9), requests, evaluator=evaluator)
    assert evaluator.forwards == 6
    assert evaluator.differentiated == 12
    assert evaluator.pulled_back == 12


def test_methods_over_noisy_copies_share_their_passes(watching):
    evaluator = watching(MODEL)
    run(*inputs(6, 9), REQUESTS[3:7], evaluator=evaluator)
    assert evaluator.differentiated == 6 * 5
    assert evaluator.pulled_back == 6 * 5 + 6


def test_a_baseline_is_evaluated_once_for_all_methods_that_start_there(watching):
    evaluator = watching(MODEL)
    requests = [
        method_request("integrated_gradients", steps=3),
        method_request("integrated_gradients", id="b", steps=4, rule="right"),
        method_request("integrated_gradients", id="c", steps=4, target="loss_true"),
    ]
    run(*inputs(6, 9), requests, evaluator=evaluator, batch_size=2)
    black_and_clean = 1 + 6
    assert evaluator.forwards == 6 * (3 + 4 + 4) + black_and_clean


def test_linear_reductions_pull_back_once_per_image(stemmed):
    evaluator = stemmed(MODEL)
    run(*inputs(5, 10), [method_request("smoothgrad", samples=8)], evaluator=evaluator)
    run(*inputs(5, 10), [method_request("integrated_gradients", steps=8)], evaluator=evaluator)
    blurred = method_request("expected_gradients", samples=8, baseline=Blur(3, 1.0))
    run(*inputs(5, 10), [blurred], evaluator=evaluator)
    assert evaluator.pulled_back == 15


@given(st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_an_evaluator_with_a_stem_gives_the_same(stemmed, n, batch_size):
    data = inputs(n, 11)
    assert_same(run(*data, evaluator=stemmed(MODEL), batch_size=batch_size), run(*data))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_image_is_marked_and_leaves_its_neighbours_alone(bad):
    x, seeds, labels = inputs(4, 12)
    clean = run(x, seeds, labels)
    broken = x.clone()
    broken[2, 0, 3, 3] = bad
    good = [0, 1, 3]
    for one, other in zip(run(broken, seeds, labels), clean, strict=True):
        assert one.status == ("ok", "ok", "non_finite", "ok")
        assert other.status == ("ok",) * 4
        torch.testing.assert_close(one.maps[good], other.maps[good])


def test_results_carry_logits_index_score_and_cost():
    x, seeds, labels = inputs(3, 13)
    results = run(x, seeds, labels, batch_size=2)
    with torch.no_grad():
        logits = MODEL(x.clone())
    for request, result in zip(REQUESTS, results, strict=True):
        torch.testing.assert_close(result.logits, logits)
        assert (result.method, result.target) == (request.id, request.target)
        assert result.evaluations == request.evaluations(CLASSES, tuple(x.shape[1:]))
        assert not result.maps.requires_grad
        assert result.maps.is_contiguous()
    complete = {r.method for r in results if r.completeness_gap is not None}
    assert complete == {
        "input_x_gradient",
        "integrated_gradients",
        "uniform",
        "blur",
        "pool",
        "expected_gradients",
        "blurred",
        "gradient_shap",
        "uni",
        "unlearned",
        "blur_ig",
        "guided_ig",
        "agi",
    }


def test_a_sampling_may_be_given_another_reduction():
    x, seeds, _ = inputs(3, 14)
    requests = [
        MethodRequest("mean on the path", StraightPath(Uniform(), 4, "right"), Reduction.MEAN),
        MethodRequest(
            "variance on the path", StraightPath(Uniform(), 4, "right"), Reduction.VARIANCE
        ),
        MethodRequest("square", AtInput(), Reduction.MEAN_SQUARE),
        method_request("gradient"),
    ]
    mean, variance, square, gradient = run(x, seeds, None, requests)
    torch.testing.assert_close(square.maps, gradient.maps.square())
    assert variance.maps.min() >= 0
    assert mean.completeness_gap is None
    with pytest.raises(ValueError, match="needs a path"):
        MethodRequest("no path", NoisyCopies(3, 0.1), Reduction.TIMES_DIFFERENCE)


def test_arguments_that_do_not_fit_are_refused():
    x, seeds, labels = inputs(3, 15)
    one = [method_request("gradient")]
    with pytest.raises(ValueError, match="at least one method"):
        run(x, seeds, labels, [])
    with pytest.raises(ValueError, match="2 given for 3 samples"):
        run(x, seeds[:2], labels, one)
    with pytest.raises(ValueError, match=r"labels: \(2,\) given"):
        run(x, seeds, labels[:2], one)
    with pytest.raises(ValueError, match="batch_size: 0"):
        run(x, seeds, labels, one, batch_size=0)
    with pytest.raises(ValueError, match="n >= 1"):
        run(x[:0], [], None, one)
    with pytest.raises(ValueError, match="floating point"):
        run(x.long(), seeds, labels, one)
    with pytest.raises(ValueError, match="the model has 4 classes"):
        run(x, seeds, labels, [method_request("gradient", target=4)])
    with pytest.raises(ValueError, match=r"expected logits \(examples, classes\)"):
        run(x, seeds, labels, one, evaluator=PlainEvaluator(nn.Tanh()))
