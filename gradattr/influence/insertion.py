"""Do the pixels a map points at carry what the training image teaches? One step tells.

For a pair (training image, query) some pixels of the training image are kept, the others replaced
by a fill value, and the model takes plain gradient steps on that image alone:

    θ' = θ - lr grad_θ loss(masked image, y; θ)      delta = loss(query; θ') - loss(query; θ)

*Insertion* keeps the first share k of the pixels in an order, *deletion* removes it. For a pair
whose training image helps, the right pixels make delta more negative than as many random ones.

Pixels are ordered by the signed sum of the map over channels, highest first; for a harmful pair
hand in minus the map. Shapes: p pairs, d = h w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradattr.errors import DataError, MethodError
from gradattr.influence.products import GradientProducts
from gradattr.influence.stepping import Steps
from gradattr.seeds import derive_seed

Test = Literal["insertion", "deletion"]


def pixel_order(maps: Tensor, seeds: Sequence[int]) -> Tensor:
    """Pixels of maps (p, c, h, w) by their sum over channels, descending: indices (p, h w) int64.

    Equal ones stand in the order of a permutation that is drawn for each pair from its seed alone.
    Raises DataError for a NaN, MethodError if there is not one seed for each map.
    """
    _check_seeds(maps, seeds)
    sums = maps.sum(1, dtype=torch.float64).flatten(1)
    missing = sums.isnan().any(1)
    if bool(missing.any()):
        raise DataError(
            f"map {int(missing.nonzero()[0])} of {len(maps)} has a value that is NaN; its pixels "
            "have no order"
        )
    shuffled = _permutations(seeds, "ties", sums.shape[1]).to(maps.device)
    places = sums.gather(1, shuffled).sort(dim=1, descending=True, stable=True).indices
    return shuffled.gather(1, places)


def random_order(pixels: int, seeds: Sequence[int]) -> Tensor:
    """The control: a permutation of the pixels for each pair, from its seed alone (p, pixels)."""
    return _permutations(seeds, "random arm", pixels)


def step_tests(
    products: GradientProducts,
    x: Tensor,
    y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
    orders: Mapping[str, Tensor],
    *,
    levels: Sequence[float],
    fill: float | Tensor,
    lr: float,
    steps: int = 1,
    test: Test = "insertion",
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """delta (p, levels) for each arm of ``orders``, in nats: negative where the step helped.

    Row r of the training images x (p, c, h, w), y (p,), of the queries query_x (p, ...), query_y
    (p,), and of every order (p, h w) is one pair. ``levels``: shares k in [0, 1] of the pixels that
    are kept (insertion; kept = d - round((1 - k) d)) or removed (deletion). ``fill`` is in units of
    the model's input, a number or one per channel (c,). The products' loss and all parameters they
    have chosen take ``steps`` plain gradient steps from the given model, in eval mode.

    An image of which nothing or everything is removed is the same in every arm: it is made once,
    and the difference of two arms there is 0, bit for bit. ``batch_size``: models at a time.
    Raises MethodError for arguments that do not fit together.
    """
    _check_request(x, y, query_x, query_y, orders, levels, lr, steps, test)
    pixels = x.shape[2] * x.shape[3]
    ranks = {arm: order.to(x.device).argsort(1) for arm, order in orders.items()}
    runner = Steps(products, lr, steps, batch_size)
    found = {arm: x.new_zeros(len(x), len(levels)) for arm in orders}
    if not len(x):
        return found
    cells = list(_cells(orders, levels, pixels, test))
    color = torch.as_tensor(fill, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
    before = runner.losses(query_x, query_y)
    jobs = [(pair, cell) for pair in range(len(x)) for cell in cells]
    size = runner.batch_size
    for first in range(0, len(jobs), size):
        part = jobs[first : first + size]
        rows = torch.tensor([pair for pair, _ in part], device=x.device)
        kept = torch.stack([cell.keeps(ranks[cell.arms[0]][pair], test) for pair, cell in part])
        images = torch.where(kept.view(len(part), 1, *x.shape[2:]), x[rows], color)
        after = runner.after(images, y[rows], query_x[rows], query_y[rows])
        for value, (pair, cell) in zip(after - before[rows], part, strict=True):
            for arm in cell.arms:
                found[arm][pair, cell.level] = value
    return found


@dataclass(frozen=True)
class _Cell:
    """One level of some arms that see the same image: the first ``count`` pixels are meant."""

    arms: tuple[str, ...]
    level: int
    count: int

    def keeps(self, ranks: Tensor, test: Test) -> Tensor:
        """(d,) bool, from the rank of each pixel."""
        return ranks < self.count if test == "insertion" else ranks >= self.count


def _cells(
    arms: Mapping[str, Tensor], levels: Sequence[float], pixels: int, test: Test
) -> list[_Cell]:
    cells = []
    for number, level in enumerate(levels):
        count = pixels - round((1 - level) * pixels)
        if 0 < count < pixels:
            cells += [_Cell((arm,), number, count) for arm in arms]
        else:  # all pixels or none: no order is asked
            cells.append(_Cell(tuple(arms), number, count))
    return cells


def _permutations(seeds: Sequence[int], purpose: str, size: int) -> Tensor:
    generator = torch.Generator()
    rows = torch.empty(len(seeds), size, dtype=torch.int64)
    for row, seed in zip(rows, seeds, strict=True):
        generator.manual_seed(derive_seed(seed, "insertion", purpose))
        torch.randperm(size, generator=generator, out=row)
    return rows


def _check_seeds(maps: Tensor, seeds: Sequence[int]) -> None:
    if maps.dim() != 4 or len(seeds) != len(maps):
        raise MethodError(
            f"maps {tuple(maps.shape)} and {len(seeds)} seeds were given; expected maps "
            "(p, c, h, w) and a seed for each"
        )


def _check_request(
    x: Tensor,
    y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
    orders: Mapping[str, Tensor],
    levels: Sequence[float],
    lr: float,
    steps: int,
    test: str,
) -> None:
    if test not in ("insertion", "deletion"):
        raise MethodError(f"test '{test}' was given; expected 'insertion' or 'deletion'")
    if x.dim() != 4 or not (len(x) == len(y) == len(query_x) == len(query_y)):
        raise MethodError(
            f"{tuple(x.shape)} training images, {len(y)} labels, {len(query_x)} queries and "
            f"{len(query_y)} labels were given; expected (p, c, h, w) and p of each"
        )
    for arm, order in orders.items():
        if order.shape != (len(x), x.shape[2] * x.shape[3]):
            raise MethodError(
                f"the order '{arm}' is {tuple(order.shape)}; expected "
                f"({len(x)}, {x.shape[2] * x.shape[3]}), every pixel of every pair"
            )
    wrong = [level for level in levels if not 0 <= level <= 1]
    if wrong or not orders:
        raise MethodError(
            f"level {wrong[0]} was given; expected shares in [0, 1]"
            if wrong
            else "no order of pixels was given"
        )
    if steps < 1 or lr <= 0:
        raise MethodError(f"{steps} steps of {lr:g} were given; expected at least one above 0")
