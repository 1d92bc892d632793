"""Random parameters: which, in what order, and what stays as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator, attribute, method_request
from gradattr.errors import UsageError
from gradattr.metrics.map_change import map_change
from gradattr.metrics.randomisation import (
    modules_with_parameters,
    other_model,
    randomisation,
    randomise,
    reset,
)

SEEDS = [1, 2, 3]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(384, 12),
            nn.ReLU(),
            nn.Linear(12, 4),
        )
        nn.init.normal_(model[1].weight)  # type: ignore[arg-type]
    return model.double().eval()


def images() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_modules_stand_in_reverse_order_of_their_calls() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(192, 4), nn.Conv2d(3, 3, 1)
            self.unused = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(self.first(x))
            logits: Tensor = self.last(hidden.flatten(1)) * self.scale
            return logits

    assert modules_with_parameters(network(), images()[:1]) == ["6", "4", "1", "0"]
    assert modules_with_parameters(Backwards(), images()[:1].float()) == ["last", "first", ""]
    shared = nn.Conv2d(3, 3, 1)
    twice = nn.Sequential(shared, nn.Conv2d(3, 3, 1), shared, nn.Flatten()).double()
    assert modules_with_parameters(twice, images()[:1]) == ["0", "1"]


def test_every_parameter_of_a_transformer_is_reached() -> None:
    model = torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    names = modules_with_parameters(model, torch.rand(1, 3, 16, 16))
    assert names[0] == "heads.head"
    assert names[-1] == ""
    assert "encoder.layers.encoder_layer_0.self_attention" in names
    seen: set[str] = set()
    for name in names:
        before = state(model)
        randomise(model, name, seed=0, others=names)
        now = changed(before, state(model))
        assert now and not now & seen
        seen |= now
    assert seen == dict(model.named_parameters()).keys()


def test_a_block_stands_for_all_inside_that_is_not_named_itself() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 2))
    before = state(model)
    randomise(model, "0", seed=0, others=["0", "0.1"])
    assert changed(before, state(model)) == {"0.0.weight", "0.0.bias"}
    randomise(model, "0", seed=0)
    assert changed(before, state(model)) == {f"0.{i}.{n}" for i in "01" for n in ("weight", "bias")}


def test_new_values_depend_on_seed_and_name_alone() -> None:
    one, two, other = network(), network(), network()
    torch.manual_seed(5)
    randomise(one, "4", seed=1)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    randomise(two, "6", seed=1)
    randomise(two, "4", seed=1)
    randomise(other, "4", seed=2)
    assert torch.equal(one[4].weight, two[4].weight)  # type: ignore[arg-type]
    assert not torch.equal(one[4].weight, other[4].weight)  # type: ignore[arg-type]
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_modules_without_a_way_to_begin_anew() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(3 + 2 * torch.randn(5000))
            self.scale = nn.Parameter(torch.full((10,), 0.5))

    own = Own()
    before = state(own)
    with torch.no_grad():
        reset(own)
    assert changed(before, state(own)) == {"weight"}
    assert own.weight.mean().item() == pytest.approx(3, abs=0.2)
    assert own.weight.std().item() == pytest.approx(2, abs=0.2)
    old_style = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    before = state(old_style)
    randomise(old_style, "", seed=0)
    assert any("original" in name for name in changed(before, state(old_style)))


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_against_a_loop(order: Literal["cascading", "independent"]) -> None:
    model, x = network(), images()
    before = state(model)
    modes = [module.training for module in model.modules()]
    index = model(x).argmax(1)
    methods = ("gradient", "saliency", "integrated_gradients", "random")
    found = randomisation(
        PlainEvaluator(model),
        x,
        [method_request(name) for name in methods],
        seeds=SEEDS,
        seed=7,
        order=order,
        batch_size=2,
    )
    assert not changed(before, state(model))
    assert modes == [module.training for module in model.modules()]
    names = ("6", "4", "1", "0")
    for name, result in zip(methods, found, strict=True):
        assert result.stages == names
        request = method_request(name, target="logit_true")
        original = attribute(PlainEvaluator(model), x, [request], seeds=SEEDS, labels=index)[0]
        for column in range(4):
            twin = copy.deepcopy(model)
            for stage in (
                names[: column + 1] if order == "cascading" else names[column : column + 1]
            ):
                randomise(twin, stage, seed=7)
            made = attribute(PlainEvaluator(twin), x, [request], seeds=SEEDS, labels=index)[0]
            expected = map_change(original.maps, made.maps)
            for ours, theirs in zip(result.change, expected, strict=True):
                torch.testing.assert_close(ours[:, column], theirs, rtol=1e-9, atol=1e-9)
    gradient, *_, random = found
    assert gradient.change.spearman[:, 3].abs().max() < 0.3 or order == "independent"
    assert random.change.spearman.min().item() == pytest.approx(1)


def test_nothing_random_changes_nothing() -> None:
    (found,) = randomisation(
        PlainEvaluator(network()),
        images(),
        [method_request("gradient")],
        seeds=SEEDS,
        modules=["4", "0"],
        initialise=lambda _module: None,
    )
    assert found.stages == ("4", "0")
    torch.testing.assert_close(found.change.spearman, torch.ones(3, 2, dtype=torch.float64))
    assert found.change.l2.max() == 0


def test_an_image_is_alone() -> None:
    model, x = PlainEvaluator(network()), images()
    request = method_request("smoothgrad", samples=3)
    (all_three,) = randomisation(model, x, [request, method_request("gradient")], seeds=SEEDS)[:1]
    (one,) = randomisation(model, x[1:2], [request], seeds=SEEDS[1:2], batch_size=1)
    for many, few in zip(all_three.change, one.change, strict=True):
        torch.testing.assert_close(many[1:2], few, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ([], "expected one or more"),
        (["4", "4"], "each once"),
        (["head"], "no module 'head'"),
        (["2"], "'2' has no parameters"),
    ],
)
def test_what_does_not_fit(modules: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        randomisation(
            PlainEvaluator(network()),
            images(),
            [method_request("gradient")],
            seeds=SEEDS,
            modules=modules,
        )


def test_another_model_explains_the_same_classes() -> None:
    model, x = network(), images()
    other = copy.deepcopy(model)
    for name in ("6", "4", "1", "0"):
        randomise(other, name, seed=9)
    requests = [
        method_request("gradient"),
        method_request("uni", steps=2, iterations=2),
        method_request("random"),
    ]
    found = other_model(
        PlainEvaluator(model), PlainEvaluator(other), x, requests, seeds=SEEDS, batch_size=2
    )
    index = model(x).argmax(1)
    pinned = [replace(r, target=f"{str(r.target).partition('_')[0]}_true") for r in requests]
    there = attribute(PlainEvaluator(other), x, pinned, seeds=SEEDS, labels=index)
    before = attribute(PlainEvaluator(model), x, requests, seeds=SEEDS)
    for change, a, b in zip(found, before, there, strict=True):
        for one, expected in zip(change, map_change(a.maps, b.maps), strict=True):
            torch.testing.assert_close(one, expected, equal_nan=True)
    assert found[0].spearman.max() < 0.9
    # Drawn from the image's seed alone.
    assert torch.equal(found[2].spearman, torch.ones(3, dtype=torch.float64))
