r"""How far two maps of the same image differ, in six numbers.

Shapes: n images, c channels, h x w pixels; maps (n, c, h, w) or (n, 1, h, w). Every number is
NaN where it does not exist: a map with a NaN or an infinity, and a map that is constant (it ranks
nothing, points nowhere and has no structure). All are the same whatever positive number a map is
multiplied with, save ``l2``; all are symmetric in the two maps, save ``l2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gradattr.attribution.agreement import centred_ranks
from gradattr.errors import UsageError

#: Pixels that count as the top of a map (Ghorbani et al. 2019), and their largest share.
TOP_PIXELS = 1000
TOP_SHARE = 0.1
#: Side of SSIM's windows, and its two constants (Wang et al. 2004; those of scikit-image).
WINDOW = 7
K1, K2 = 0.01, 0.03
#: Values that are worked on at once: 8 MiB in float64.
_AT_ONCE = 2**20
#: The order of pixels with equal scores: any, but not from the top left.
_TIES = 20190117


class MapChange(NamedTuple):
    """Per image (n,) - or (n, k) for k changed maps of an image -, float64, on the CPU.

    Higher is more alike, save ``l2``.
    """

    spearman: Tensor
    """-1 to 1: rank correlation of the values, ties at their average rank. Chance: 0."""
    spearman_magnitude: Tensor
    """-1 to 1: the same of |values|; NaN where all magnitudes are equal."""
    top_intersection: Tensor
    """0 to 1: share of one map's top pixels among the other's; chance: k / hw."""
    cosine: Tensor
    """-1 to 1: cosine of the angle between the maps as vectors."""
    ssim: Tensor
    """-1 to 1: mean structural similarity over windows and channels, of maps divided by their
    largest magnitude; NaN for images below 3 pixels in height or width."""
    l2: Tensor
    """0 or more: ||after - before|| / ||before||; 0 for equal maps."""


def map_change(before: Tensor, after: Tensor, *, top: int | None = None) -> MapChange:
    """Compare maps (n, c, h, w) with changed maps (n, c, h, w) of the same images.

    ``top``: number of pixels of the top intersection, by default 1000, or 10 % of the pixels where
    that is fewer. Raises UsageError for shapes that differ or do not fit.
    """
    check_maps(before, after)
    parts = [
        MapChange(
            spearman(a, b),
            spearman(a.abs(), b.abs()),
            top_intersection(a, b, top),
            cosine(a, b),
            ssim(a, b),
            relative_l2(a, b),
        )
        for a, b in _parts(before, after)
    ]
    return MapChange(*(torch.cat(column) for column in zip(*parts, strict=True)))


def stack_changes(changes: Sequence[MapChange]) -> MapChange:
    """k comparisons of the same n images, side by side: fields (n, k)."""
    return MapChange(*(torch.stack(column, 1) for column in zip(*changes, strict=True)))


def join_changes(changes: Sequence[MapChange]) -> MapChange:
    """Comparisons of consecutive images below one another."""
    return MapChange(*(torch.cat(column) for column in zip(*changes, strict=True)))


def spearman(before: Tensor, after: Tensor) -> Tensor:
    """(n,) Spearman's correlation of all values of maps (n, ...)."""
    a, b = _flat(before), _flat(after)
    ranks_a, ranks_b = centred_ranks(a), centred_ranks(b)
    spread = ranks_a.norm(dim=1) * ranks_b.norm(dim=1)
    value = (ranks_a * ranks_b).sum(1) / spread
    return _where_known(value.clamp(-1, 1), a, b)


def top_intersection(before: Tensor, after: Tensor, top: int | None = None) -> Tensor:
    """(n,) share of the ``top`` pixels by sum over channels of |map| that are top in both.

    Of pixels with equal scores at the last place some have to be chosen: those that come first in
    one fixed shuffled order, so that equal maps have intersection 1.
    """
    a, b = before.double().abs().sum(1).flatten(1), after.double().abs().sum(1).flatten(1)
    pixels = a.shape[1]
    count = top_count(pixels, top)
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(_TIES)).to(a.device)
    marks = []
    for scores in (a[:, order], b[:, order]):
        first = scores.nan_to_num(0).sort(dim=1, descending=True, stable=True).indices[:, :count]
        marks.append(torch.zeros_like(scores, dtype=torch.bool).scatter_(1, first, True))
    return _where_known((marks[0] & marks[1]).double().sum(1) / count, a, b)


def top_count(pixels: int, top: int | None) -> int:
    """How many of so many pixels are the top."""
    if top is None:
        return min(TOP_PIXELS, max(1, round(TOP_SHARE * pixels)))
    if not 1 <= top <= pixels:
        raise UsageError(f"top {top}: expected 1 to the number of pixels of a map, {pixels}")
    return top


def cosine(before: Tensor, after: Tensor) -> Tensor:
    """(n,) <before, after> / (||before|| ||after||) of maps (n, ...)."""
    a, b = _unit(_flat(before)), _unit(_flat(after))
    value = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return _where_known(value.clamp(-1, 1), _flat(before), _flat(after))


def ssim(before: Tensor, after: Tensor) -> Tensor:
    """(n,) mean SSIM as scikit-image's ``structural_similarity`` computes it by default: uniform
    windows of 7 x 7 that lie inside the image, sample covariance, mean over the channels.

    Each map (c, h, w) is divided by its largest magnitude, so that its values lie in [-1, 1]; the
    data range is 2. On smaller images the window is the largest odd one that fits.
    """
    known = _where_known(torch.zeros(len(before)), _flat(before), _flat(after))
    a, b = (_unit(_flat(maps)).view_as(maps) for maps in (before, after))
    return known + structural_similarity(a, b, data_range=2)


def structural_similarity(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    """(n,) mean SSIM of a and b (n, c, h, w), whose values span ``data_range``, as ``ssim`` says;
    float64 on the CPU. NaN for images below 3 pixels in height or width."""
    side = min(WINDOW, *a.shape[2:])
    side -= 1 - side % 2
    if side < 3:
        return torch.full((len(a),), torch.nan, dtype=torch.float64)
    a, b = a.double(), b.double()

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(values, (side, 1), stride=1), (1, side), stride=1)

    mean_a, mean_b = mean(a), mean(b)
    sample = side**2 / (side**2 - 1)
    var_a = sample * (mean(a * a) - mean_a**2)
    var_b = sample * (mean(b * b) - mean_b**2)
    covariance = sample * (mean(a * b) - mean_a * mean_b)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.flatten(1).mean(1).cpu()


def relative_l2(before: Tensor, after: Tensor) -> Tensor:
    """(n,) ||after - before|| / ||before|| of maps (n, ...)."""
    a, b = _flat(before), _flat(after)
    largest = a.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1)
    value = ((b - a) / scale).norm(dim=1) / (a / scale).norm(dim=1)
    return _where_known(value, a, b)


def check_maps(before: Tensor, after: Tensor) -> None:
    """Raise UsageError unless both are (n, c, h, w), and of one shape."""
    if before.dim() != 4 or before.shape != after.shape:
        raise UsageError(
            f"maps of shape {tuple(before.shape)} are compared with {tuple(after.shape)}; "
            "expected (n, c, h, w) twice"
        )


def _parts(before: Tensor, after: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, _AT_ONCE // max(1, before[:1].numel()))
    pairs = zip(torch.split(before, rows), torch.split(after, rows), strict=True)
    return [(a.detach(), b.detach()) for a, b in pairs]


def _flat(maps: Tensor) -> Tensor:
    return maps.double().flatten(1)


def _unit(flat: Tensor) -> Tensor:
    """Rows (n, d) divided by their largest magnitude: no square overflows or vanishes."""
    largest = flat.abs().amax(1, keepdim=True)
    return flat / torch.where(largest > 0, largest, 1)


def _where_known(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(n,) on the CPU, NaN where a row of a (n, d) or b (n, d) is constant or not finite."""
    known = torch.ones(len(a), dtype=torch.bool, device=a.device)
    for rows in (a, b):
        known &= torch.isfinite(rows).all(1) & (rows.amax(1) > rows.amin(1))
    return value.double().cpu().masked_fill(~known.cpu(), torch.nan)
