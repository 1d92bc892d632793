"""Attacks on maps: what they may do, what they find, and what they depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution import (
    MethodRequest,
    Normalization,
    PlainEvaluator,
    attribute,
    method_request,
)
from gradattr.attribution.sampling import NoisyCopies
from gradattr.errors import MethodError, UsageError
from gradattr.metrics.attack import Attacked, attack_maps
from gradattr.metrics.attack_settings import AttackKind, AttackSettings, Objective
from gradattr.metrics.map_change import spearman, top_intersection
from gradattr.metrics.map_derivative import likeness_derivative
from gradattr.metrics.repeated_maps import RepeatedMaps
from gradattr.metrics.smooth_relu import SmoothReLUs, smooth_forward

SEEDS = [1, 2, 3, 4]
WIDE = Normalization.from_mean_std([0.5, 0.4, 0.3], [0.2, 0.5, 1.0])


def network(kind: str = "cnn") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).double().eval()
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(216, 24),
            nn.ReLU(),
            nn.Linear(24, 4),
        )
    return model.double().eval()


def images(n: int = 4) -> Tensor:
    x = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.5, 1.0])
    return (x - mean.view(1, 3, 1, 1).double()) / std.view(1, 3, 1, 1).double()


def requests() -> list[MethodRequest]:
    return [method_request(name) for name in ("gradient", "saliency", "input_x_gradient")]


def attacked(
    settings: AttackSettings, methods: list[MethodRequest] | None = None
) -> list[Attacked]:
    return attack_maps(
        PlainEvaluator(network()),
        images(),
        methods or requests(),
        seeds=SEEDS,
        normalization=WIDE,
        settings=settings,
    )


@pytest.mark.parametrize("kind", ["random_sign", "gradient"])
@pytest.mark.parametrize("objective", ["spearman", "top_k", "cosine"])
def test_what_is_found_is_allowed_and_reported_as_it_is(
    kind: AttackKind, objective: Objective
) -> None:
    settings = AttackSettings(kind, objective=objective, candidates=3, steps=4, eps=0.05)
    model, x = network(), images()
    std = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    mean = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64).view(1, 3, 1, 1)
    for request, found in zip(requests(), attacked(settings), strict=True):
        assert found.method == request.id
        pixels, original = found.x * std + mean, x * std + mean
        assert (pixels - original).abs().max() <= 0.05 + 1e-12
        assert pixels.min() >= -1e-12 and pixels.max() <= 1 + 1e-12
        assert torch.equal(model(found.x).argmax(1), model(x).argmax(1))
        before, after = (
            attribute(PlainEvaluator(model), points, [request], seeds=SEEDS)[0].maps
            for points in (x, found.x)
        )
        torch.testing.assert_close(found.before, before)
        torch.testing.assert_close(found.after, after)
        torch.testing.assert_close(found.spearman, spearman(before, after))
        torch.testing.assert_close(found.top_intersection, top_intersection(before, after))
        assert (found.spearman < 1).all()
        assert ((found.rejected >= 0) & (found.rejected <= 1)).all()
        assert found.evaluations == 8 + (8 if kind == "gradient" else 0)


def test_more_search_finds_no_less_and_the_derivative_more() -> None:
    methods = requests()
    few = attacked(AttackSettings(candidates=3, steps=0), methods)
    more = attacked(AttackSettings(candidates=3, steps=10), methods)
    slope = attacked(AttackSettings("gradient", candidates=3, steps=10), methods)
    for a, b, c in zip(few, more, slope, strict=True):
        assert (b.spearman <= a.spearman).all()
        assert (c.spearman <= a.spearman).all()
        assert c.spearman.mean() < b.spearman.mean() < a.spearman.mean()


def test_any_method_can_be_attacked() -> None:
    methods = [
        method_request("integrated_gradients", steps=3),
        method_request("smoothgrad", samples=3),
        method_request("occlusion", window=3, stride=3),
        method_request("gradient", id="per pixel", post=["channel_sum"]),
        method_request("gradient", id="of class 2", target=2),
    ]
    for found in attacked(AttackSettings(candidates=4, steps=2), methods):
        assert (found.spearman < 1).all()


def test_a_label_that_is_lost_is_rejected() -> None:
    class Brittle(nn.Module):
        """Class 0 at the images, class 1 anywhere else."""

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.sums = x.flatten(1).sum(1)

        def forward(self, x: Tensor) -> Tensor:
            score = x.square().flatten(1).sum(1)
            away = (x.flatten(1).sum(1)[:, None] - self.sums).abs().amin(1) > 1e-9
            return torch.stack([score, score + torch.where(away, 1.0, -1.0)], 1)

    x = images()
    for kind in ("random_sign", "gradient"):
        kinds: dict[str, AttackKind] = {"random_sign": "random_sign", "gradient": "gradient"}
        (found,) = attack_maps(
            PlainEvaluator(Brittle(x)),
            x,
            [method_request("gradient")],
            seeds=SEEDS,
            settings=AttackSettings(kinds[kind], candidates=3, steps=2),
        )
        assert found.rejected.tolist() == pytest.approx([1] * 4)
        assert found.spearman.isnan().all() and found.top_intersection.isnan().all()
        assert torch.equal(found.x, x) and torch.equal(found.after, found.before)


@pytest.mark.parametrize("kind", ["random_sign", "gradient"])
def test_nothing_depends_on_batch_size_neighbours_or_other_methods(kind: AttackKind) -> None:
    settings = AttackSettings(kind, candidates=3, steps=3)
    methods = [*requests(), method_request("gradient", id="true", target="prob_true")]
    labels = torch.tensor([0, 1, 2, 3])
    model, x = PlainEvaluator(network()), images()
    together = attack_maps(
        model, x, methods, seeds=SEEDS, labels=labels, normalization=WIDE, settings=settings
    )
    for request, many in zip(methods, together, strict=True):
        (few,) = attack_maps(
            model,
            x[1:3],
            [request],
            seeds=SEEDS[1:3],
            labels=labels[1:3],
            normalization=WIDE,
            settings=settings,
            batch_size=3,
        )
        torch.testing.assert_close(many.x[1:3], few.x)
        torch.testing.assert_close(many.after[1:3], few.after)
        torch.testing.assert_close(many.rejected[1:3], few.rejected)
        assert many.evaluations == few.evaluations


def test_the_map_of_a_linear_model_cannot_be_changed() -> None:
    (found,) = attack_maps(
        PlainEvaluator(network("linear")),
        images(),
        [method_request("gradient")],
        seeds=SEEDS,
        settings=AttackSettings("gradient", candidates=2, steps=2, eps=1e-4),
    )
    assert found.spearman.tolist() == pytest.approx([1] * 4)
    assert found.top_intersection.tolist() == [1] * 4


@pytest.mark.parametrize("objective", ["cosine", "top_k"])
def test_the_derivative_is_that_of_finite_differences(objective: Objective) -> None:
    settings = AttackSettings("gradient", objective=objective, beta=5.0)
    model, x, step = network(), images(), 1e-5
    again = RepeatedMaps(PlainEvaluator(model), x, requests(), seeds=SEEDS)
    points = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()

    def soft(at: Tensor, number: int) -> Tensor:
        leaf = at.clone().requires_grad_(True)
        logits = smooth_forward(model, leaf, 5.0)
        score = logits.gather(1, again.predicted[:, None]).sum()
        (grad,) = torch.autograd.grad(score, leaf)
        return (grad, grad.abs(), grad * at)[number]

    for number in range(3):

        def likeness(at: Tensor, number: int = number) -> Tensor:
            maps = soft(at, number)
            if objective == "cosine":
                return F.cosine_similarity(maps.flatten(1), soft(x, number).flatten(1))
            scores = again.maps[number].abs().sum(1).flatten(1)
            top = scores >= scores.topk(14, dim=1).values[:, -1:]
            own = maps.abs().sum(1).flatten(1)
            return (own * top).sum(1) / own.sum(1)

        slope = likeness_derivative(again, points, slice(0, 4), number, settings)
        difference = (likeness(points + step * towards) - likeness(points - step * towards)) / 2
        expected = (slope * towards).flatten(1).sum(1)
        torch.testing.assert_close(difference / step, expected, rtol=1e-3, atol=1e-6)


def test_softplus_stands_in_for_every_relu() -> None:
    x = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
    soft = F.softplus(x, beta=3.0)
    capped = soft - F.softplus(x - 6, beta=3.0)
    with SmoothReLUs(3.0) as mode:
        plain = [
            F.relu(x),
            torch.relu(x),
            x.relu(),
            x.clamp(min=0),
            nn.ReLU()(x),
            x.clone().relu_(),
        ]
        plain += [F.threshold(x, 0, 0), x.clamp_min(0), F.relu(x.clone(), inplace=True)]
        ends = [F.relu6(x), F.hardtanh(x, 0, 6), nn.ReLU6(inplace=True)(x.clone()), x.clamp(0, 6)]
        written = x.clone()
        written.relu_()
        others = (x.clamp(min=0.5), F.hardtanh(x), F.threshold(x, 1, 0), torch.tanh(x))
    assert mode.met == 14
    for value in [*plain, written]:
        torch.testing.assert_close(value, soft)
    for value in ends:
        torch.testing.assert_close(value, capped)
    assert torch.equal(others[0], x.clamp(min=0.5)) and torch.equal(others[1], F.hardtanh(x))
    (first,) = torch.autograd.grad(written.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    sigmoid = torch.sigmoid(3 * x)
    torch.testing.assert_close(second, 3 * sigmoid * (1 - sigmoid))


def test_what_cannot_be_attacked_along_a_derivative() -> None:
    for request in (
        method_request("integrated_gradients", steps=2),
        method_request("gradient", smooth=NoisyCopies(2, 0.1)),
        method_request("smoothgrad", samples=2),
    ):
        with pytest.raises(MethodError, match="use kind 'random_sign'"):
            attacked(AttackSettings("gradient"), [request])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"candidates": 0, "steps": 0}, "one at least"),
        ({"candidates": -1}, "-1 candidates"),
        ({"eps": 0.0}, "eps 0.0"),
        ({"beta": -1.0}, "beta -1.0"),
        ({"kind": "other"}, "kind 'other'"),
        ({"objective": "other"}, "objective 'other'"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        AttackSettings(**changes)  # type: ignore[arg-type]
