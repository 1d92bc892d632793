"""Small float64 classifiers of small images, and an evaluator that counts what it is asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradattr.attribution import PlainEvaluator

CLASSES = 4


class Counting(PlainEvaluator):
    """Remembers how many images were evaluated, and the most at once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.images = 0
        self.largest = 0

    def logits(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.largest = max(self.largest, len(x))
        return super().logits(x)


def pictures(n: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """(n, channels, side, side) float64 in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, side, side, generator=generator, dtype=torch.float64)


def random_maps(n: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """(n, channels, side, side) float64, standard normal."""
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)


def linear_classifier(side: int, channels: int = 3) -> tuple[nn.Module, Tensor]:
    """The model, and the weights (classes, channels, side, side) of its logits."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = nn.Linear(channels * side * side, CLASSES).double()
    weights = layer.weight.detach().view(CLASSES, channels, side, side)
    return nn.Sequential(nn.Flatten(), layer), weights


def convolutional_classifier(channels: int = 3) -> nn.Module:
    """Of images of any size; not monotone, far from linear."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layers = [
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        ]
        model = nn.Sequential(*layers).double()
        for parameter in model.parameters():
            parameter.data *= 2.5
    return model.eval()
