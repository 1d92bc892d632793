"""What the benchmarks of training data attribution share: networks, images, the loops of a user."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torchvision
from bench_common import Timing
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from gradattr.models.cifar_resnet import CifarResNet

CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """A model, training examples, queries."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    queries: Tensor
    labels: Tensor


def make_setting(name: str, images: int, queries: int) -> Setting:
    """'resnet20' at 32 px, 'resnet18' at 224 px; images are class patterns in noise."""
    torch.manual_seed(0)
    if name == "resnet20":
        model, side = CifarResNet(3, 3, CLASSES), 32
    else:
        model, side = torchvision.models.resnet18(num_classes=CLASSES), 224
    patterns = F.interpolate(torch.randn(CLASSES, 3, 8, 8), side)
    y = torch.randint(0, CLASSES, (images + queries,))
    x = 0.5 * patterns[y] + torch.randn(len(y), 3, side, side)
    with torch.no_grad():
        for _ in range(10):  # batch-norm statistics of these images, not 0 and 1
            model(patterns + torch.randn(CLASSES, 3, side, side))
    if side == 32:  # gradients with some structure; a network that knows its images has none
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for rows in torch.arange(min(images, 1024)).split(64):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x[rows]), y[rows]))
            optimizer.step()
    model.eval().requires_grad_(True)
    return Setting(name, model, x[:images], y[:images], x[images:], y[images:])


def one_gradient(model: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    loss = F.cross_entropy(model(image[None]), label[None])
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def loop(setting: Setting, directions: Tensor) -> Tensor:
    """grad-cos (n, q), one backward pass per example; directions (q, parameters) of unit length."""
    found = []
    for image, label in zip(setting.x, setting.y, strict=True):
        g = one_gradient(setting.model, image, label)
        found.append(directions @ g / g.norm())
    return torch.stack(found)


def vectorised(setting: Setting, directions: Tensor, batch: int) -> Tensor:
    """grad-cos (n, q) by vmap(grad), ``batch`` examples at a time."""
    values = {name: p.detach() for name, p in setting.model.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(setting.model, values, (image[None],)), label[None])

    found = []
    for rows in torch.arange(len(setting.x)).split(batch):
        grads = vmap(grad(loss), (None, 0, 0))(values, setting.x[rows], setting.y[rows])
        flat = torch.cat([g.flatten(1) for g in grads.values()], 1)
        found.append(F.normalize(flat, dim=1) @ directions.T)
    return torch.cat(found)


def plain_backward(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """The floor: gradients of batches' losses, as in training. Says nothing of single examples."""
    parameters = list(model.parameters())
    found = torch.zeros(())
    for rows in torch.arange(len(x)).split(batch):
        loss = F.cross_entropy(model(x[rows]), y[rows])
        found = found + torch.autograd.grad(loss, parameters)[0].sum()
    return found


def table(
    work: str, timings: Mapping[str, Timing], per: int, references: Mapping[str, Tensor]
) -> list[str]:
    """Markdown rows: CPU ms each of ``per``, speed relative to the first, and the numerics: error
    relative to the largest reference value, least rank correlation of a column."""
    first = next(iter(timings.values())).median
    lines = []
    for name, timing in timings.items():
        check = "- | -"
        if name in references:
            check = compared(references[name], timing.maps)
        lines.append(
            f"| {work} | {name} | {1e3 * timing.median / per:.4g} | "
            f"{first / timing.median:.2f} | {check} |"
        )
    return lines


def compared(reference: Tensor, found: Tensor) -> str:
    """'error | Spearman' of columns (n, q)."""
    error = float((found - reference).abs().max() / reference.abs().max())
    pairs = zip(reference.T.double(), found.T.double(), strict=True)
    least = min(float(spearmanr(one, other).statistic) for one, other in pairs)
    return f"{error:.1e} | {least:.5f}"


HEADER = "| work | contender | CPU ms each | x | error | Spearman |\n|---|---|---|---|---|---|"


def arguments(text: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="a quick look: fewer examples")
    parser.add_argument("--work", default=None, help="only works whose name begins so")
    return parser.parse_args()


def show(lines: Sequence[str]) -> None:
    print("\n".join(lines), flush=True)
