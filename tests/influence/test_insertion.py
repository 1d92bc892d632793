"""Insertion and deletion tests against torch.optim.SGD on copies of the model, pair by pair."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.errors import DataError, MethodError
from gradattr.influence import GradientProducts, pixel_order, random_order, step_tests
from gradattr.influence.stepping import Steps
from gradattr.models.cifar_resnet import CifarResNet
from tests.influence.conftest import SHAPES

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]
FILL = 0.25


def by_optimizer(
    model: nn.Module, image: Tensor, label: Tensor, query: Tensor, target: Tensor, steps: int
) -> float:
    own = copy.deepcopy(model).eval().requires_grad_(True)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.05)
    with torch.no_grad():
        before = F.cross_entropy(own(query[None].clone()), target[None])
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(own(image[None].clone()), label[None]))
        optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(own(query[None].clone()), target[None]) - before)


def masked(image: Tensor, order: Tensor, level: float, test: str) -> Tensor:
    pixels = image[0].numel()
    chosen = order[: pixels - round((1 - level) * pixels)].tolist()
    result = torch.full_like(image, FILL) if test == "insertion" else image.clone()
    for pixel in chosen:
        row, column = divmod(pixel, image.shape[2])
        result[:, row, column] = image[:, row, column] if test == "insertion" else FILL
    return result


@pytest.fixture(scope="module")
def nets(network: Network) -> Network:
    """Those of the room; in place of the large ResNet a small one, with batch norm as well."""
    torch.manual_seed(9)
    small = CifarResNet(1, 3, 5).double().eval()
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return lambda name: small if name == "resnet18" else network(name)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("test", "steps"), [("insertion", 1), ("deletion", 3)])
def test_equals_an_optimizer_on_copies(
    nets: Network, examples: Examples, name: str, test: Any, steps: int
) -> None:
    model, (x, y), (qx, qy) = nets(name), examples(name, 2), examples(name, 2, seed=4)
    seeds = [11, 12]
    pixels = x.shape[2] * x.shape[3]
    orders = {"top": pixel_order(x, seeds), "random": random_order(pixels, seeds)}
    levels = [0.0, 0.3, 1.0]
    products = GradientProducts(model)
    found = step_tests(
        products, x, y, qx, qy, orders, levels=levels, fill=FILL, lr=0.05, steps=steps, test=test
    )
    for arm, order in orders.items():
        for pair in range(2):
            for number, level in enumerate(levels):
                image = masked(x[pair], order[pair], level, test)
                expected = by_optimizer(model, image, y[pair], qx[pair], qy[pair], steps)
                value = float(found[arm][pair, number])
                assert value == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", SHAPES)
def test_models_are_vectorised(nets: Network, examples: Examples, name: str) -> None:
    runner = Steps(GradientProducts(nets(name)), 0.1, 2)
    (x, y), (qx, qy) = examples(name, 3), examples(name, 3, seed=1)
    fast = runner.after(x, y, qx, qy)
    assert runner.how == "vmap"
    runner.how = "loop"
    torch.testing.assert_close(runner.after(x, y, qx, qy), fast, rtol=1e-10, atol=1e-12)


def test_a_model_that_cannot_be_vectorised_goes_through_the_loop() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) * (2.0 if float(x.detach().sum()) > 0 else 1.0)

    torch.manual_seed(0)
    model = Stubborn().double()
    x, y = torch.randn(3, 1, 3, 3).double(), torch.arange(3)
    runner = Steps(GradientProducts(model), 0.05, 2)
    found = runner.after(x, y, x.flip(0), y.flip(0)) - runner.losses(x.flip(0), y.flip(0))
    assert runner.how == "loop"
    for pair in range(3):
        expected = by_optimizer(model, x[pair], y[pair], x[2 - pair], y[2 - pair], 2)
        assert float(found[pair]) == pytest.approx(expected, rel=1e-10)


def test_chosen_parameters_alone_are_moved(network: Network, examples: Examples) -> None:
    model, (x, y) = network("mlp"), examples("mlp", 1)
    products = GradientProducts(model, parameters=["5.*"])
    found = Steps(products, 0.05, 1).after(x, y, x, y)
    own = copy.deepcopy(model).requires_grad_(True)
    torch.autograd.backward(F.cross_entropy(own(x), y))
    with torch.no_grad():
        for parameter in own[5].parameters():
            parameter -= 0.05 * parameter.grad
        torch.testing.assert_close(found[0], F.cross_entropy(own(x), y))


@pytest.fixture(scope="module")
def small() -> tuple[GradientProducts, Tensor, Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    return GradientProducts(model), torch.randn(5, 2, 5, 5), torch.arange(5) % 4


@given(batch=st.integers(1, 40), pairs=st.lists(st.integers(0, 4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_where_nothing_is_chosen_arms_differ_by_zero_and_batches_do_not_matter(
    small: tuple[GradientProducts, Tensor, Tensor], batch: int, pairs: list[int]
) -> None:
    products, x, y = small
    seeds = [40 + pair for pair in pairs]
    orders = {"top": pixel_order(x[pairs], seeds), "random": random_order(25, seeds)}
    options: dict[str, Any] = {"levels": [0, 0.001, 0.5, 1], "fill": torch.zeros(2), "lr": 0.1}
    for test in ("insertion", "deletion"):
        found = step_tests(
            products,
            x[pairs],
            y[pairs],
            x[pairs].flip(3),
            y[pairs],
            orders,
            test=test,
            batch_size=batch,
            **options,
        )
        for column in (0, 1, 3):  # 0.1 % of 25 pixels are none
            assert torch.equal(found["top"][:, column], found["random"][:, column])
        assert (found["top"][:, 2] != found["random"][:, 2]).all()
        one = {arm: order[:1] for arm, order in orders.items()}
        first = pairs[:1]
        alone = step_tests(
            products, x[first], y[first], x[first].flip(3), y[first], one, test=test, **options
        )
        for arm in orders:
            torch.testing.assert_close(found[arm][:1], alone[arm], rtol=1e-4, atol=1e-6)


def test_the_right_pixels_teach() -> None:
    """A linear model, a query like the left half of the training image: its pixels come first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    x = torch.ones(1, 1, 4, 4).double()
    query = torch.zeros(1, 1, 4, 4).double()
    query[..., :2] = 1.0
    y = torch.tensor([1])
    orders = {"top": pixel_order(query, [1]), "bottom": pixel_order(-query, [1])}
    found = step_tests(
        GradientProducts(model), x, y, query, y, orders, levels=[0.5], fill=0.0, lr=0.1
    )
    assert float(found["top"]) < float(found["bottom"]) < 0


def test_pixels_are_ordered_by_signed_sums_and_ties_by_seed() -> None:
    maps = torch.zeros(2, 2, 3, 4)
    maps[:, 0, 1, 1], maps[:, 1, 1, 1] = 5.0, -1.0  # 4
    maps[:, 0, 2, 3], maps[:, 1, 0, 0] = 3.0, -9.0
    found = pixel_order(maps, [7, 8])
    assert found.dtype == torch.int64
    assert found[:, :2].tolist() == [[5, 11], [5, 11]] and found[:, -1].tolist() == [0, 0]
    assert (found.sort(1).values == torch.arange(12)).all()
    assert not torch.equal(found[0], found[1])
    assert torch.equal(pixel_order(maps[1:], [8]), found[1:])
    assert torch.equal(pixel_order(-maps, [7, 8])[:, 0], torch.tensor([0, 0]))
    # A map that says nothing is an order of its own, not that of the control.
    assert not torch.equal(pixel_order(torch.zeros(1, 1, 3, 4), [7]), random_order(12, [7]))
    assert torch.equal(random_order(12, [7, 8])[1:], random_order(12, [8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "both"}, "'both' was given"),
        ({"levels": [10]}, r"level 10 was given; expected shares in \[0, 1\]"),
        ({"steps": 0}, "0 steps of 0.1"),
        ({"lr": 0.0}, "1 steps of 0 "),
        ({"orders": {}}, "no order"),
        ({"orders": {"top": torch.arange(9)[None]}}, r"'top' is \(1, 9\); expected \(5, 25\)"),
        ({"query_y": torch.zeros(2)}, "5 labels, 5 queries and 2 labels"),
    ],
)
def test_arguments_that_do_not_fit(
    small: tuple[GradientProducts, Tensor, Tensor], change: dict[str, Any], message: str
) -> None:
    products, x, y = small
    given_: dict[str, Any] = {
        "query_x": x,
        "query_y": y,
        "orders": {"random": random_order(25, range(5))},
        "levels": [0.5],
        "fill": 0.0,
        "lr": 0.1,
        **change,
    }
    with pytest.raises(MethodError, match=message):
        step_tests(products, x, y, **given_)


def test_maps_without_an_order() -> None:
    maps = torch.zeros(2, 1, 2, 2)
    with pytest.raises(MethodError, match="1 seeds were given"):
        pixel_order(maps, [1])
    maps[1, 0, 0, 1] = float("nan")
    with pytest.raises(DataError, match="map 1 of 2 has a value that is NaN"):
        pixel_order(maps, [1, 2])


def test_no_pairs(small: tuple[GradientProducts, Tensor, Tensor]) -> None:
    products, x, y = small
    orders = {"random": random_order(25, [])}
    found = step_tests(
        products, x[:0], y[:0], x[:0], y[:0], orders, levels=[0.5, 1.0], fill=0.0, lr=0.1
    )
    assert found["random"].shape == (0, 2)
