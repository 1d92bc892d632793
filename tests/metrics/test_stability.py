"""Maps over numbers of steps, and how complete they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gradattr.attribution import MethodRequest, PlainEvaluator, attribute, method_request
from gradattr.errors import MethodError, UsageError
from gradattr.metrics.map_change import map_change
from gradattr.metrics.stability import completeness, riemann_stability, with_steps

SEEDS = [1, 2, 3]


def network(linear: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        hidden = [] if linear else [nn.Linear(192, 20), nn.ReLU()]
        last = nn.Linear(192 if linear else 20, 4)
    return nn.Sequential(nn.Flatten(), *hidden, last).double().eval()


def images() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def path_methods() -> list[MethodRequest]:
    return [
        method_request("integrated_gradients", target="prob_pred", rule="right"),
        method_request("uni"),
        method_request("blur_ig", max_sigma=3.0),
        method_request("guided_ig"),
    ]


def test_every_number_of_steps_against_the_most() -> None:
    model, x = PlainEvaluator(network()), images()
    found = riemann_stability(model, x, path_methods(), seeds=SEEDS, steps=(12, 1, 5), batch_size=2)
    for request, stability in zip(path_methods(), found, strict=True):
        assert stability.steps == (1, 5, 12)
        made = [attribute(model, x, [with_steps(request, k)], seeds=SEEDS)[0] for k in (1, 5, 12)]
        for column, one in enumerate(made):
            expected = map_change(made[-1].maps, one.maps)
            for ours, theirs in zip(stability.change, expected, strict=True):
                torch.testing.assert_close(
                    ours[:, column], theirs, rtol=1e-9, atol=1e-9, equal_nan=True
                )
            if request.id != "guided_ig":
                assert stability.completeness_gap is not None and one.completeness_gap is not None
                torch.testing.assert_close(
                    stability.completeness_gap[:, column], one.completeness_gap
                )
        assert stability.change.spearman[:, 2].tolist() == pytest.approx([1] * 3)
        assert stability.change.l2[:, 2].tolist() == [0] * 3
        if request.id == "blur_ig":  # its one step is at x, where a blur of 0 changes nothing
            assert stability.change.l2[:, 0].isnan().all()
        else:
            assert (stability.change.l2[:, 0] > stability.change.l2[:, 1]).all()


def test_a_linear_model_needs_one_step() -> None:
    model, x = PlainEvaluator(network(linear=True)), images()
    request = method_request("integrated_gradients", rule="right")
    (found,) = riemann_stability(model, x, [request], seeds=SEEDS)
    assert found.steps == (1, 15, 30)
    assert found.change.l2.max() < 1e-12
    assert found.completeness_gap is not None
    assert found.completeness_gap.abs().max() < 1e-12


def test_methods_do_not_disturb_one_another() -> None:
    model, x = PlainEvaluator(network()), images()
    together = riemann_stability(model, x, path_methods(), seeds=SEEDS, steps=(1, 4))
    for number, request in enumerate(path_methods()):
        (alone,) = riemann_stability(model, x[1:], [request], seeds=SEEDS[1:], steps=(1, 4))
        for many, few in zip(together[number].change, alone.change, strict=True):
            torch.testing.assert_close(many[1:], few, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_completeness() -> None:
    model, x = PlainEvaluator(network()), images()
    (result,) = attribute(model, x, [method_request("input_x_gradient")], seeds=SEEDS)
    assert result.baseline_score is not None and result.completeness_gap is not None
    found = completeness(result)
    assert found is not None
    change = (result.score - result.baseline_score).abs()
    torch.testing.assert_close(found.relative, result.completeness_gap.abs() / change)
    assert found.mean_gap == pytest.approx(result.completeness_gap.abs().mean().item())
    assert found.median_relative == pytest.approx(found.relative.sort().values[1].item())
    assert found.largest_relative == found.relative.max().item()
    assert found.known == 3

    score = result.score.clone()
    score[0] = result.baseline_score[0]
    gap = result.completeness_gap.clone()
    gap[1] = torch.nan
    rest = completeness(replace(result, score=score, completeness_gap=gap))
    assert rest is not None
    assert rest.relative.isnan().tolist() == [True, True, False]
    assert rest.known == 1
    assert rest.median_relative == rest.largest_relative == rest.relative[2].item()

    (claims_nothing,) = attribute(model, x, [method_request("gradient")], seeds=SEEDS)
    assert completeness(claims_nothing) is None


def test_what_does_not_fit() -> None:
    model, x = PlainEvaluator(network()), images()
    with pytest.raises(MethodError, match="'gradient' has no path"):
        riemann_stability(model, x, [method_request("gradient")], seeds=SEEDS)
    with pytest.raises(UsageError, match="two numbers or more"):
        riemann_stability(model, x, path_methods(), seeds=SEEDS, steps=(5, 5))
    with pytest.raises(UsageError, match="no method"):
        riemann_stability(model, x, [], seeds=SEEDS)
