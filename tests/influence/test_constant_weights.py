"""Second derivatives of convolutions with constant weights against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradattr.influence.constant_weights import constant_weights

KINDS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=(2, 1), groups=2, bias=False),
    nn.Conv2d(4, 4, 3, padding="same", dilation=2),
    nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect"),
]


def second_slope(model: nn.Module, leaf: Tensor, x: Tensor) -> Tensor:
    """d/dx of |d/d(first layer's output) of a loss|^2."""
    found: list[Tensor] = []
    handle = model.get_submodule("0").register_forward_hook(lambda _m, _a, out: found.append(out))
    loss = model(x).square().sum()
    handle.remove()
    (grads, _) = torch.autograd.grad(loss, [found[0], leaf], create_graph=True)
    return torch.autograd.grad(grads.square().sum(), leaf)[0]


@pytest.mark.parametrize("conv", KINDS, ids=str)
def test_second_derivatives_are_torchs(conv: nn.Conv2d) -> None:
    torch.manual_seed(3)
    last = nn.Conv2d(conv.out_channels, 2, 2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), conv, nn.Tanh(), last)
    model.double().requires_grad_(False)
    leaf = torch.randn(2, 3, 9, 9).double().requires_grad_()
    expected = second_slope(model, leaf, leaf.clone())
    points = leaf.clone()
    with constant_weights(model, points):
        found = second_slope(model, leaf, points)
    torch.testing.assert_close(found, expected)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_convolutions_are_given_back_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).requires_grad_(False)
    with pytest.raises(RuntimeError), constant_weights(model, torch.zeros(1, 3, 4, 4)):
        model(torch.zeros(1, 5, 4, 4))
    assert "forward" not in model[0].__dict__


def test_a_convolution_whose_weight_is_trained_stays_torchs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    x = torch.randn(1, 3, 4, 4)
    with constant_weights(model, x):
        torch.autograd.backward(model(x).sum())
    assert model[0].weight.grad is not None
