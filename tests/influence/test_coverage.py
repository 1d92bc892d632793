"""Who covers which parameter: reused and shared layers, raw parameters, functions of weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import ModelError
from gradattr.influence import GradientProducts
from gradattr.influence.maps import tfa_maps
from gradattr.influence.wiring import Plan, wire
from tests.influence.conftest import loop_gradients

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


class Reused(nn.Module):
    """One layer called twice, on different numbers of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.norm(self.conv(F.max_pool2d(x, 2))))
        return self.head(x.mean((2, 3)))


class Functional(nn.Module):
    """A weight that a module uses and a function reads once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.flatten(1)))
        return self.head(F.linear(x, self.first.weight.T))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x.flatten(1))))


class Raw(nn.Module):
    """Parameters of the model itself: by broadcasting (1, ...), and not."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.mixing = nn.Parameter(torch.randn(1, 3, 8))
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh((x.flatten(1) + self.position) * self.scale)
        return x @ self.mixing[0].T


class Overwriting(nn.Module):
    """The input of a layer is overwritten before the backward pass comes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        y = self.head(x)
        return y + x.mul_(0.5)[:, :3]


class Branching(nn.Module):
    """Control flow that vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) * self.scale
        return self.head(x if x.sum().item() > 1e9 else torch.tanh(x))


CASES = {
    "reused": (Reused, []),
    "functional": (Functional, ["first.weight"]),
    "tied": (Tied, ["first.weight"]),
    "raw": (Raw, ["scale", "mixing"]),
    "branching": (Branching, ["scale"]),
}


def _case(name: str) -> tuple[nn.Module, Tensor, Tensor, list[str]]:
    torch.manual_seed(5)
    build, fallback = CASES[name]
    shape = (2, 4, 4) if name == "reused" else (2, 2, 2)
    model = build().double().eval()
    return model, torch.randn(5, *shape).double(), torch.arange(5) % 3, fallback


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_is_right_and_accounted_for(name: str) -> None:
    model, x, y, fallback = _case(name)
    products = GradientProducts(model, batch_size=4)
    dots, norms = products.dots_and_norms(x, y, products.directions(x[:2], y[:2]))
    oracle = loop_gradients(model, x, y)
    torch.testing.assert_close(dots, oracle @ oracle[:2].T, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norms, oracle.norm(dim=1), rtol=1e-10, atol=1e-12)
    assert products.report["fallback"] == fallback


def test_what_the_report_says() -> None:
    model, x, y, _ = _case("branching")
    products = GradientProducts(model)
    products.norms(x, y)
    products.norms(x, y)
    assert products.report["fallback_how"] == "loop"
    assert products.report["layers"] == {"Linear": 1}
    assert products.report["parameters"] == 8 + 27


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
def test_the_fallback_equals_the_layers(
    network: Network, examples: Examples, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (x, y) = network(name), examples(name, 3)
    by_layer = GradientProducts(model)
    queries = by_layer.directions(x[:2], y[:2])
    general = GradientProducts(model)
    nothing = Plan(attention=False, folding=False, uncovered=frozenset(general.names))
    monkeypatch.setattr(general, "_wiring", wire(general.model, general.names, nothing))
    general.batch_size = 3
    for one, other in zip(
        by_layer.dots_and_norms(x, y, queries), general.dots_and_norms(x, y, queries), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert general.wiring(x, y).report()["fallback"] == general.names
    assert general.wiring(x, y).report()["fallback_how"] == "vmap"
    pairs = [(0, 0), (2, 1)]
    torch.testing.assert_close(
        tfa_maps(by_layer, x, y, queries, pairs).values,
        tfa_maps(general, x, y, queries, pairs).values,
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", ["functional", "raw", "branching"])
def test_maps_where_a_fallback_takes_part(name: str) -> None:
    model, x, y, _ = _case(name)
    products = GradientProducts(model)
    queries = products.directions(x[:1], y[:1])
    found = tfa_maps(products, x, y, queries, [(3, 0)], score="dot").values[0]
    step, moved = 1e-5, torch.zeros_like(found)
    for place in range(found.numel()):
        change = torch.zeros(found.numel(), dtype=x.dtype)
        change[place] = step
        ends = [x[3] + sign * change.view_as(x[3]) for sign in (1, -1)]
        up, down = products.dots(torch.stack(ends), y[[3, 3]], queries)[:, 0]
        moved.view(-1)[place] = (up - down) / (2 * step)
    torch.testing.assert_close(found, moved, rtol=1e-6, atol=1e-7)


def test_attention_that_is_not_self_attention_stays_a_module() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2)
            return self.head(self.attention(x, 2 * x, x + 1)[0].mean(1))

    torch.manual_seed(0)
    model = Crossed().double().eval()
    x, y = torch.randn(3, 2, 2, 2).double(), torch.arange(3)
    products = GradientProducts(model)
    oracle = loop_gradients(model, x, y)
    torch.testing.assert_close(products.norms(x, y), oracle.norm(dim=1))
    assert products.report["attention_unrolled"] == 0
    assert "attention.in_proj_weight" in products.report["fallback"]
    assert products.report["layers"] == {"Linear": 1}


def test_a_model_that_cannot_be_trained_is_named() -> None:
    with pytest.raises(ModelError, match="modified by an inplace operation"):
        GradientProducts(Overwriting()).norms(torch.randn(2, 8), torch.arange(2))


def test_a_model_that_cannot_be_copied_is_named() -> None:
    model = nn.Linear(2, 2)
    model.lock = iter([])  # type: ignore[assignment]
    model.file = open(__file__)  # noqa: SIM115, PTH123
    try:
        with pytest.raises(ModelError, match="cannot be copied"):
            GradientProducts(model)
    finally:
        model.file.close()
