"""Small data sets and models to train."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

Split = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def digits() -> Split:
    """(train, test) of scikit-learn's digits in [0, 1]: every fifth image is held out."""
    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target, dtype=torch.int64)
    held_out = torch.arange(len(x)) % 5 == 0
    return (x[~held_out], y[~held_out]), (x[held_out], y[held_out])


@pytest.fixture(scope="session")
def few(digits: Split) -> tuple[Tensor, Tensor]:
    """61 digits: with batches of 12, a last batch of one."""
    (x, y), _ = digits
    return x[:61], y[:61]


@pytest.fixture(scope="session")
def make_net() -> Callable[..., nn.Module]:
    """A small convolutional net with batch-norm and dropout, the same for the same seed."""

    def make(seed: int = 0, dropout: float = 0.2) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Dropout(dropout),
                nn.Linear(256, 16),
                nn.BatchNorm1d(16),
                nn.ReLU(),
                nn.Linear(16, 10),
            )

    return make


class MemoryCheckpoints:
    """Checkpoints kept in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, bytes]] = []

    def save(self, epoch: int, data: bytes) -> None:
        self.kept.append((epoch, data))

    def load(self) -> tuple[int, bytes] | None:
        return self.kept[-1] if self.kept else None


@pytest.fixture
def memory_checkpoints() -> MemoryCheckpoints:
    return MemoryCheckpoints()
