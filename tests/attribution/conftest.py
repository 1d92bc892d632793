"""Small float64 networks with random weights, inputs, and evaluators that watch or have a stem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.attribution import Choose, Explained, PlainEvaluator
from gradattr.attribution.target import Objective

CLASSES = 6


def _random_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.3 * torch.randn_like(module.running_mean)
            module.running_var = torch.rand_like(module.running_var) + 0.5


@cache
def _network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        models = {
            "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES)),
            "mlp": lambda: nn.Sequential(
                nn.Flatten(),
                nn.Linear(3 * 32 * 32, 40),
                nn.ReLU(),
                nn.Linear(40, 30),
                nn.ReLU(),
                nn.Linear(30, CLASSES),
            ),
            "cnn": lambda: nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 12, 3, stride=2),
                nn.ReLU(inplace=True),
                nn.Flatten(),
                nn.Linear(12 * 49, CLASSES),
            ),
            "smooth": lambda: nn.Sequential(
                nn.Conv2d(3, 6, 5, stride=3),
                nn.Softplus(),
                nn.Flatten(),
                nn.Linear(600, 20),
                nn.Tanh(),
                nn.Linear(20, CLASSES),
            ),
            "resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
        }
        model = models[name]()
        _random_statistics(model)
    return model.double().eval()


@pytest.fixture(scope="session")
def network() -> Callable[[str], nn.Module]:
    """By name: linear, mlp, cnn (in-place ReLU), smooth, resnet18; input (3, 32, 32), 6 classes."""
    return _network


@pytest.fixture(scope="session")
def images() -> Callable[..., Tensor]:
    """``images(n, seed=0)``: (n, 3, 32, 32) float64 in [0, 1)."""

    def make(n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + seed)
        return torch.rand(n, 3, 32, 32, generator=generator, dtype=torch.float64)

    return make


class Watching(PlainEvaluator):
    """Counts points: the largest micro-batch, and the sum over calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.largest = 0
        self.differentiated = 0
        self.forwards = 0
        self.pulled_back = 0

    def logits(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        self.forwards += len(x)
        return super().logits(x)

    def stem(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        return super().stem(x)

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        assert len(grad_h) == x_shape[0]
        self.largest = max(self.largest, len(grad_h))
        self.pulled_back += len(grad_h)
        return super().pullback(grad_h, x_shape)

    def logits_and_gradients(
        self, h: Tensor, choices: Sequence[Choose]
    ) -> tuple[Tensor, list[Explained]]:
        self.largest = max(self.largest, len(h))
        if choices:
            self.forwards += len(h)
            self.differentiated += len(h) * len(choices)
        return super().logits_and_gradients(h, choices)


@pytest.fixture(scope="session")
def watching() -> Callable[[nn.Module], Watching]:
    return Watching


class Stemmed:
    """A convolutional stem in front of a plain rest, as fast evaluators have it."""

    def __init__(self, model: nn.Sequential) -> None:
        self.network = model
        self.first = model[0]
        self.rest = Watching(model[1:])
        self.pulled_back = 0

    def logits(self, x: Tensor) -> Tensor:
        return self.rest.logits(self.stem(x))

    def stem(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.first(x)

    def pullback(self, grad_h: Tensor, x_shape: torch.Size) -> Tensor:
        self.pulled_back += len(grad_h)
        layer = self.first
        assert isinstance(layer, nn.Conv2d)
        with torch.no_grad():
            return F.grad.conv2d_input(x_shape, layer.weight, grad_h, layer.stride, layer.padding)

    def gradients(
        self, h: Tensor, index: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self.rest.gradients(h, index, objective)

    def logits_and_gradients(
        self, h: Tensor, choices: Sequence[Choose]
    ) -> tuple[Tensor, list[Explained]]:
        return self.rest.logits_and_gradients(h, choices)


@pytest.fixture(scope="session")
def stemmed() -> Callable[[nn.Sequential], Stemmed]:
    return Stemmed


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """``assert_close(maps, expected, relative=1e-10)``: per sample, against its largest value."""

    def check(maps: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
        assert maps.shape == expected.shape
        difference = (maps - expected).flatten(1).abs().amax(1)
        size = expected.flatten(1).abs().amax(1)
        assert (difference <= relative * size).all(), (difference / size).max()

    return check
