"""The stem: which front is split off, that it is affine, and its transpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradattr.attribution.tuning.stem import split_stem, suits_blocks, transposed_in_blocks
from gradattr.attribution.tuning.tracing import trace


class Normalised(nn.Module):
    """(x - mean) / std, then a network, as wrapped models often are."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4]))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mean[None, :, None, None]) / self.std.view(1, 3, 1, 1))


class Skipping(nn.Module):
    """Reads its input again behind the first convolution: no point that all goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv(x).relu() + x).mean((2, 3)))


class Flattening(nn.Module):
    """The flattening of a hand-written MLP, with functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(108, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(torch.flatten(x, 1))))


def head(channels: int, side: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.Flatten(), nn.Linear(channels * side * side, 4)]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), *head(5, 3)),
    "rectangular": lambda: nn.Sequential(nn.Conv2d(3, 5, (3, 1), padding=(1, 0)), *head(5, 6)),
    "dilated": lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=2, dilation=2), *head(5, 6)),
    "reflecting": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), *head(5, 6)
    ),
    "normalised": lambda: Normalised(nn.Sequential(nn.Conv2d(3, 5, 3), *head(5, 4))),
    "convolution, norm, pooling": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.AvgPool2d(2), *head(5, 3)
    ),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 7), nn.ReLU(), nn.Linear(7, 4)),
    "hand-written mlp": Flattening,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 4)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_parts_equal_the_whole_and_the_stem_is_affine(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double().eval()
    parts = split_stem(trace(model))
    assert parts is not None
    stem, rest = parts
    x, y = torch.randn(2, 3, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(rest(stem(x)), model(x), rtol=1e-12, atol=1e-12)
    between = 0.3 * stem(x) + 0.7 * stem(y)
    torch.testing.assert_close(stem(0.3 * x + 0.7 * y), between, rtol=1e-11, atol=1e-11)
    leaf = x.clone().requires_grad_(True)
    h = stem(leaf)
    g = torch.randn_like(h)
    (expected,) = torch.autograd.grad(h, leaf, g)
    torch.testing.assert_close(stem.pullback(g, x.shape), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)),
        lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(108, 4)),
        lambda: nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.Flatten()),
        lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()),
        Skipping,
    ],
    ids=["relu", "relu after flatten", "max-pool", "norm over the batch", "skip from the input"],
)
def test_no_affine_front(make: Callable[[], nn.Module]) -> None:
    assert split_stem(trace(make().eval())) is None


def test_stem_ends_before_the_first_activation() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    parts = split_stem(trace(model.eval()))
    assert parts is not None
    assert [type(m) for m in parts[0].modules() if not list(m.children())] == [
        nn.Conv2d,
        nn.BatchNorm2d,
    ]


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 8),
    stride=st.integers(1, 5),
    padding=st.integers(0, 4),
    height=st.integers(4, 17),
    width=st.integers(4, 17),
    channels=st.integers(1, 4),
)
def test_transposed_in_blocks(
    kernel: int, stride: int, padding: int, height: int, width: int, channels: int
) -> None:
    assume(padding < kernel <= min(height, width) + 2 * padding)
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 5, kernel, stride, padding).double()
    assert suits_blocks(conv)
    x = torch.randn(2, channels, height, width, dtype=torch.float64, requires_grad=True)
    out = conv(x)
    g = torch.randn_like(out)
    (expected,) = torch.autograd.grad(out, x, g)
    torch.testing.assert_close(
        transposed_in_blocks(conv, g, x.shape), expected, rtol=1e-11, atol=1e-11
    )
