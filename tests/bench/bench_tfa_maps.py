"""TFA maps with SmoothGrad against double backward passes, pair by pair, with the same copies.

    python tests/bench/bench_tfa_maps.py [--small] [--rounds 5] [--work 32-one]

The loop that a user writes: for every pair the gradient of the loss in all parameters with a graph,
its cosine with the query's gradient, and the gradient of that in the pixels, one noisy copy at a
time. Ours shares the forward and first backward pass among all queries of one image, and batches
copies of several images. ``error`` (of the largest pixel) and ``Spearman`` are against the loop in
float64, the worst of all pairs, for the loop in float32 as well.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import partial

import torch
from bench_common import Work, interleaved, machine, one_thread
from influence_common import HEADER, Setting, arguments, make_setting, show, table
from torch import Tensor
from torch.nn import functional as F

from gradattr.influence import Directions, GradientProducts, tfa_maps
from gradattr.influence.maps import NoisyCopies, Row

SIGMA = 0.3


def one_map(setting: Setting, point: Tensor, label: Tensor, unit: Tensor) -> Tensor:
    """d cos(g(x), u) / dx by double backward; ``unit`` (parameters,) of length 1."""
    leaf = point[None].detach().requires_grad_()
    loss = F.cross_entropy(setting.model(leaf), label[None])
    grads = torch.autograd.grad(loss, list(setting.model.parameters()), create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])
    return torch.autograd.grad(flat @ unit / flat.norm(), leaf)[0][0]


def by_loop(setting: Setting, units: Tensor, pairs: list[tuple[int, int]], copies: int) -> Tensor:
    """(pixels, pairs)."""
    noise = NoisyCopies(copies, SIGMA)
    found = []
    for image, query in pairs:
        points = noise.of(setting.x, [Row(image, image, copy) for copy in range(copies)])
        total = torch.zeros_like(setting.x[0])
        for point in points:
            total += one_map(setting, point, setting.y[image], units[query]) / copies
        found.append(total.flatten())
    return torch.stack(found, 1)


def ours(
    setting: Setting,
    products: GradientProducts,
    directions: Directions,
    pairs: list[tuple[int, int]],
    copies: int,
    mixed: bool = False,
) -> Tensor:
    """(pixels, pairs)."""
    found = tfa_maps(
        products,
        setting.x,
        setting.y,
        directions,
        pairs,
        copies=copies,
        sigma=SIGMA,
        seeds=[image for image, _ in pairs],
        mixed=mixed,
    )
    return found.values.flatten(1).T


def measure(name: str, images: int, queries: int, copies: int, rounds: int) -> None:
    setting = make_setting(name, images, queries)
    products = GradientProducts(setting.model)
    directions = products.directions(setting.queries, setting.labels)
    units = directions.flat() / directions.norms()[:, None].float()
    pairs = [(image, query) for image in range(images) for query in range(queries)]
    contenders: dict[str, Work] = {
        "loop, double backward per pair and copy": partial(by_loop, setting, units, pairs, copies),
        "gradattr": partial(ours, setting, products, directions, pairs, copies),
        "gradattr, mixed": partial(ours, setting, products, directions, pairs, copies, True),
    }
    timings = interleaved(contenders, rounds)
    doubled = replace(
        setting,
        model=copy.deepcopy(setting.model).double(),
        x=setting.x.double(),
    )
    exact = by_loop(doubled, units.double(), pairs, copies)
    work = f"TFA maps, {name}, {queries} queries an image, {copies} copies"
    show(table(work, timings, len(pairs) * copies, dict.fromkeys(contenders, exact)))


def main() -> None:
    given = arguments(__doc__)
    few = given.small
    works = {
        "32-one": lambda: measure("resnet20", 2 if few else 4, 1, 16 if few else 50, given.rounds),
        "32-five": lambda: measure("resnet20", 1 if few else 2, 5, 16 if few else 50, given.rounds),
        "224-one": lambda: measure("resnet18", 1, 1, 4 if few else 10, given.rounds),
        "224-five": lambda: measure("resnet18", 1, 5, 2 if few else 4, given.rounds),
    }
    show([machine(), "", HEADER])
    for name, work in works.items():
        if name.startswith(given.work or ""):
            work()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    one_thread()
    main()
