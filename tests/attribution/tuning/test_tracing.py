"""Graphs of models: what is taken out, what is made out of place, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution.tuning.tracing import Untraceable, trace


class Forward(nn.Module):
    """A module made of a function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, scale: float = 1.0, extra: Tensor | None = None) -> Tensor:
        out = self.function(x)
        return out if extra is None else out + extra * scale


def in_place_method(x: Tensor) -> Tensor:
    y = x * 2
    y.relu_()  # its result is not used by name
    return y + 1


def in_place_flag(x: Tensor) -> Tensor:
    y = x - 1
    F.relu(y, inplace=True)
    return y * 3


def in_place_by_position(x: Tensor) -> Tensor:
    y = x - 1
    z = F.relu(y, True)
    return y + z


def in_place_chain(x: Tensor) -> Tensor:
    y = x * 1.5
    y.add_(1).mul_(2)
    return y - x


def augmented(x: Tensor) -> Tensor:
    y = x * 2
    y += x
    return y


def viewed(x: Tensor) -> Tensor:
    return x.view(x.size(0), -1) + 1


@pytest.mark.parametrize(
    "function",
    [in_place_method, in_place_flag, in_place_by_position, in_place_chain, augmented, viewed],
    ids=lambda function: function.__name__,
)
def test_graph_computes_the_same_and_leaves_its_input_alone(
    function: Callable[[Tensor], Tensor],
) -> None:
    model = Forward(function).eval()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = model(x.clone())
    given = x.clone()
    torch.testing.assert_close(trace(model)(given), expected, rtol=0, atol=0)
    assert torch.equal(given, x)


def test_one_in_place_module_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            first = x - 1
            self.relu(first)
            second = first - 0.5
            self.relu(second)
            return first + 10 * second

    model = Twice().eval()
    x = torch.linspace(-2, 4, 13)[None]
    expected = model(x.clone())
    assert torch.equal(trace(model)(x.clone()), expected)


def test_idle_modules_disappear() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.Identity(), nn.Linear(4, 2)).eval()
    targets = [node.target for node in trace(model).graph.nodes if node.op == "call_module"]
    assert targets == ["model.0", "model.3"]


def test_dropout_that_is_always_on_stays() -> None:
    model = Forward(lambda x: F.dropout(x, 0.5)).eval()
    targets = [node.target for node in trace(model).graph.nodes if node.op == "call_function"]
    assert F.dropout in targets


def test_a_tensor_view_of_another_dtype_is_not_a_reshape() -> None:
    model = Forward(lambda x: x.view(torch.int32).float()).eval()
    x = torch.ones(1, 3)
    assert torch.equal(trace(model)(x), model(x))


def branching(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def assigning(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = 0
    return y


def unknown_in_place(x: Tensor) -> Tensor:
    return (x * 2).cumsum_(1)


@pytest.mark.parametrize(
    ("function", "text"),
    [(branching, "control flow"), (assigning, "item assignment"), (unknown_in_place, "cumsum_")],
)
def test_untraceable_says_why(function: Callable[[Tensor], Tensor], text: str) -> None:
    with pytest.raises(Untraceable, match=text):
        trace(Forward(function).eval())


def test_parts_in_training_mode_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(Untraceable, match="training mode"):
        trace(model)
