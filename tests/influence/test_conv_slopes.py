"""Maps of convolutional networks whose gradients are asked for in part, by double backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from gradattr.influence import GradientProducts, tfa_maps

Network = Callable[[str], nn.Module]
Examples = Callable[..., tuple[Tensor, Tensor]]


class Shared(nn.Module):
    """One convolution called twice, and one of a single pixel with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.narrow = nn.Conv2d(3, 5, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.twice(self.twice(x).sigmoid()))
        found: Tensor = self.narrow(inner).tanh().mean((2, 3))
        return found


def by_definition(
    model: nn.Module, x: Tensor, y: Tensor, u: Tensor, names: list[str], score: str
) -> Tensor:
    leaf = x[None].clone().requires_grad_()
    chosen = [p for name, p in model.named_parameters() if name in names]
    loss = F.cross_entropy(model(leaf.clone()), y[None])
    grads = torch.autograd.grad(loss, chosen, create_graph=True)
    g = torch.cat([grad.flatten() for grad in grads])
    value = g @ u if score == "dot" else F.cosine_similarity(g, u, dim=0)
    return torch.autograd.grad(value, leaf)[0][0]


@pytest.mark.parametrize("several", [False, True], ids=["one-query", "three-queries"])
@pytest.mark.parametrize("score", ["cos", "dot"])
@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("cnn", ["*.weight"]),
        ("cnn", ["*.bias"]),
        ("cnn", ["1.*", "4.weight"]),
        ("cnn", ["3.weight", "6.bias"]),
        ("resnet18", ["layer1.*.bn?.weight", "layer2.0.*"]),
        ("resnet18", ["conv1.weight", "bn1.bias", "layer4.*"]),
        ("shared", ["*"]),
    ],
)
def test_maps_of_some_parameters(
    network: Network, examples: Examples, name: str, patterns: list[str], score: str, several: bool
) -> None:
    torch.manual_seed(4)
    model = Shared().double().eval() if name == "shared" else network(name)
    shape = "cnn" if name == "shared" else name
    (x, y), (qx, qy) = examples(shape, 2), examples(shape, 3, seed=2)
    products = GradientProducts(model, parameters=patterns)
    queries = products.directions(qx, qy)
    pairs = [(1, 0), (1, 1), (1, 2)] if several else [(0, 0), (1, 0)]
    found = tfa_maps(products, x, y, queries, pairs, score="cos" if score == "cos" else "dot")
    for value, (image, query) in zip(found.values, pairs, strict=True):
        u = queries.flat()[query]
        expected = by_definition(model, x[image], y[image], u, products.names, score)
        assert float(expected.abs().max()) > 0
        assert (value - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_mixed_precision_keeps_the_ranks(network: Network, examples: Examples) -> None:
    model = copy.deepcopy(network("resnet18")).float()
    (x, y), (qx, qy) = examples("resnet18", 2), examples("resnet18", 1, seed=2)
    products = GradientProducts(model)
    queries = products.directions(qx.float(), qy)
    options: dict[str, Any] = {"copies": 4, "sigma": 0.3, "seeds": [1, 2]}
    pairs = [(0, 0), (1, 0)]
    whole = tfa_maps(products, x.float(), y, queries, pairs, **options)
    mixed = tfa_maps(products, x.float(), y, queries, pairs, mixed=True, **options)
    assert mixed.values.dtype is torch.float32 and not torch.equal(mixed.values, whole.values)
    torch.testing.assert_close(mixed.scores, whole.scores, rtol=0.02, atol=1e-3)
    for one, other in zip(whole.values, mixed.values, strict=True):
        assert spearmanr(one.abs().flatten(), other.abs().flatten()).statistic > 0.999
