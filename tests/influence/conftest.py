"""Small networks with random weights, and loops over examples in float64 to hold things against."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5
SHAPES = {"mlp": (1, 8, 8), "cnn": (3, 12, 12), "resnet18": (3, 32, 32), "vit": (3, 16, 16)}


def _build(name: str) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 9), nn.Tanh(), nn.Linear(9, 5)
        )
    if name == "cnn":
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, (3, 2), stride=2, groups=4, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 6, 3, padding="same", dilation=2),
            nn.GroupNorm(2, 6),
            nn.Softplus(),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(6 * 2 * 3, 10),
            nn.LayerNorm(10),
            nn.Linear(10, CLASSES),
        )
    if name == "resnet18":
        return torchvision.models.resnet18(num_classes=CLASSES)
    return torchvision.models.VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        mlp_dim=20,
        num_classes=CLASSES,
    )


@cache
def _network(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = _build(name)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = 0.3 * torch.randn_like(module.running_mean)
                module.running_var = torch.rand_like(module.running_var) + 0.5
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
        if name == "vit":  # its head starts at zero, and nothing reaches the layers below
            nn.init.normal_(model.heads.head.weight, std=0.3)
            nn.init.normal_(model.class_token, std=0.3)
    return model.double().eval()


@pytest.fixture(scope="session")
def network() -> Callable[[str], nn.Module]:
    """By name: mlp, cnn (groups, strides, paddings, norms), resnet18, vit; 5 classes, float64."""
    return _network


@pytest.fixture(scope="session")
def examples() -> Callable[..., tuple[Tensor, Tensor]]:
    """``examples(name, n, seed)``: inputs (n, ...) float64 and labels (n,) for that network."""

    def make(name: str, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 + seed)
        x = torch.randn(n, *SHAPES[name], generator=generator, dtype=torch.float64)
        return x, torch.randint(0, CLASSES, (n,), generator=generator)

    return make


def loop_gradients(
    model: nn.Module, x: Tensor, y: Tensor, names: list[str] | None = None
) -> Tensor:
    """The oracle: one backward pass per example through the untouched model. (n, parameters)."""
    rows = []
    parameters = [p for n, p in model.named_parameters() if names is None or n in names]
    for image, label in zip(x, y, strict=True):
        loss = F.cross_entropy(model(image[None].clone()), label[None])
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for g, p in zip(grads, parameters, strict=True)
                ]
            )
        )
    return torch.stack(rows)
