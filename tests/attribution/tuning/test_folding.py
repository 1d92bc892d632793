"""Batch norm folding: exact in float64, and only where it is certain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradattr.attribution.tuning.folding import can_fold, fold_graph, fold_sequentials, folded
from gradattr.attribution.tuning.tracing import trace


def randomised(norm: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
            if name == "running_mean":
                tensor.neg_()
    return norm


@settings(max_examples=40, deadline=None)
@given(
    dims=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    bias=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 99),
)
def test_folded_equals_both(
    dims: int, groups: int, kernel: int, stride: int, padding: int, bias: bool, affine: bool,
    seed: int,
) -> None:  # fmt: skip
    conv_of = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    norm_of = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    torch.manual_seed(seed)
    conv = conv_of(4, 8, kernel, stride, padding, groups=groups, bias=bias).double()
    norm = randomised(norm_of(8, affine=affine), seed).double().eval()
    x = torch.randn(2, 4, *[5] * dims, dtype=torch.float64)
    assert can_fold(conv, norm)
    torch.testing.assert_close(folded(conv, norm)(x), norm(conv(x)), rtol=1e-12, atol=1e-12)


class Net(nn.Module):
    def __init__(self, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = randomised(nn.BatchNorm2d(3), 1)
        self.other = randomised(nn.BatchNorm2d(3), 2)
        self.act = nn.ReLU()
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


#: forward -> how many pairs may be folded.
CASES: dict[str, tuple[Callable[[Net, Tensor], Tensor], int]] = {
    "plain": (lambda m, x: m.act(m.norm(m.conv(x))), 1),
    "called twice": (lambda m, x: m.norm(m.conv(m.act(m.norm(m.conv(x))))), 2),
    "one convolution, two norms": (lambda m, x: m.norm(m.conv(x)) + m.other(m.conv(x.relu())), 2),
    "output shared by two norms": (lambda m, x: (lambda c: m.norm(c) + m.other(c))(m.conv(x)), 0),
    "output used elsewhere": (lambda m, x: (lambda c: m.norm(c) + c)(m.conv(x)), 0),
    "weights also used unfolded": (lambda m, x: m.norm(m.conv(x)) + m.conv(x), 1),
    "norm before convolution": (lambda m, x: m.conv(m.norm(x)), 0),
    "activation between": (lambda m, x: m.norm(m.act(m.conv(x))), 0),
}


@pytest.mark.parametrize(("forward", "pairs"), CASES.values(), ids=CASES.keys())
def test_graph(forward: Callable[[Net, Tensor], Tensor], pairs: int) -> None:
    torch.manual_seed(0)
    model = Net(forward).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = model(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model)
    assert fold_graph(graph) == pairs
    torch.testing.assert_close(graph(x), expected, rtol=1e-11, atol=1e-11)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def without_statistics() -> nn.Module:
    return nn.BatchNorm2d(4, track_running_stats=False).eval()


def in_training() -> nn.Module:
    return nn.BatchNorm2d(4).train()


def watched() -> nn.Module:
    norm = nn.BatchNorm2d(4).eval()
    norm.register_forward_hook(lambda module, args, output: output * 2)
    return norm


@pytest.mark.parametrize("make", [without_statistics, in_training, watched])
def test_norms_that_are_not_fixed_affine_maps(make: Callable[[], nn.Module]) -> None:
    assert not can_fold(nn.Conv2d(3, 4, 1), make())


def test_subclasses_may_do_anything() -> None:
    class Odd(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).abs()

    assert not can_fold(Odd(3, 4, 1), nn.BatchNorm2d(4).eval())


def test_sequentials_without_a_graph() -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), randomised(nn.BatchNorm2d(4)), nn.ReLU()),
        nn.Sequential(shared, randomised(nn.BatchNorm2d(4), 1)),
        nn.Sequential(shared, randomised(nn.BatchNorm2d(4), 2)),
        shared,
    )
    model = model.double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = model(x)
    assert fold_sequentials(model) == 1
    torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-11)


def test_sequential_that_holds_one_convolution_twice() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, randomised(nn.BatchNorm2d(3)), conv, nn.ReLU()).double().eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = model(x)
    assert fold_sequentials(model) == 0
    assert torch.equal(model(x), expected)
