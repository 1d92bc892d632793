r"""How far a map moves when its image hardly moves: max-sensitivity and local Lipschitz estimate.

With random d in a ball of radius r, and the class explained at x explained at x + d too,

.. math::
    \mathrm{max\ sensitivity} = \max_d \frac{\|A(x + d) - A(x)\|_2}{\|A(x)\|_2}
    \qquad
    \mathrm{local\ Lipschitz} = \max_d \frac{\|A(x + d) - A(x)\|_2}{\|d\|_2}

(Yeh et al. 2019; Alvarez-Melis, Jaakkola 2018). Lower is more stable, and a constant map is the
most stable of all: neither says that a map is right. Both are maxima over N draws: lower bounds
that grow with N, comparable at equal N only. Random methods draw the same numbers at x and x + d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.noise import standard_normal, standard_uniform, uniform_numbers
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution
from gradattr.errors import UsageError
from gradattr.metrics.repeated_maps import RepeatedMaps, copies_of, pieces, rows_of

Norm = Literal["linf", "l2"]


class Sensitivity(NamedTuple):
    """Of one method, per image (n,), float64 on the CPU, 0 or more, lower is more stable. NaN
    where a map is not finite."""

    max_sensitivity: Tensor
    """Largest relative change; NaN also where the map at x is 0 everywhere."""
    mean_sensitivity: Tensor
    """Mean relative change; NaN alike."""
    local_lipschitz: Tensor
    """Largest change per distance, in units of the map per pixel unit (0 to 1 is 1)."""


def sensitivity(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    radius: float = 0.02,
    norm: Norm = "linf",
    samples: int = 10,
    labels: Tensor | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
    at_x: Sequence[Attribution] | None = None,
) -> list[Sensitivity]:
    """Both measures of every method at x (n, c, h, w), over the same ``samples`` perturbations.

    ``radius`` is in pixels of 0 to 1 (``normalization`` says what that is in x). d is uniform in
    the linf ball (as in Captum) or in the l2 ball, and x + d is not cut off at black and white.
    ``at_x``: the maps of x, where they are known. The other arguments are those of ``attribute``.
    Raises UsageError for arguments that do not fit.
    """
    if not 0 < radius < math.inf or samples < 1 or norm not in ("linf", "l2"):
        raise UsageError(
            f"sensitivity: radius {radius}, {samples} samples, norm '{norm}'; expected a radius "
            "above 0, 1 sample or more, and linf or l2"
        )
    again = RepeatedMaps(
        evaluator,
        x,
        requests,
        seeds=seeds,
        labels=labels,
        normalization=normalization,
        batch_size=batch_size,
        at_x=at_x,
    )
    unit = again.per_pixel_unit()
    moved = torch.zeros(len(requests), len(x), samples, dtype=torch.float64)
    distance = torch.zeros(len(x), samples, dtype=torch.float64)
    for batch in pieces(len(x), samples, batch_size):
        rows = rows_of(batch, x.device)
        parts = [ball_noise(x[r], again.seeds[r], radius, norm, copy) for copy, r in batch]
        steps = torch.cat(parts)
        there = again.at(again.x[rows] + unit * steps, rows)
        where = (rows.cpu(), copies_of(batch))
        distance[where] = _norms(steps)
        for number, (maps, before) in enumerate(zip(there.maps, again.maps, strict=True)):
            moved[number][where] = _norms(maps.double() - before.double()[rows])
    return [
        _measures(of_method, distance, _norms(before))
        for of_method, before in zip(moved, again.maps, strict=True)
    ]


def ball_noise(x: Tensor, seeds: Sequence[int], radius: float, norm: Norm, copy: int) -> Tensor:
    """Draw number ``copy``, shaped like x (n, ...): uniform in the ball of this radius around 0."""
    if norm == "linf":
        return radius * (2 * standard_uniform(x, seeds, "sensitivity", copy) - 1)
    direction = standard_normal(x, seeds, "sensitivity", copy)
    share = torch.tensor(uniform_numbers(seeds, "sensitivity radius", copy), dtype=torch.float64)
    lengths = radius * share ** (1 / x[0].numel())
    scale = lengths.to(x.device) / direction.double().flatten(1).norm(dim=1)
    return direction * scale.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def _norms(values: Tensor) -> Tensor:
    return values.double().flatten(1).norm(dim=1).cpu()


def _measures(moved: Tensor, distance: Tensor, size: Tensor) -> Sensitivity:
    """From changes (n, samples), distances (n, samples) and sizes of the maps at x (n,)."""
    known = torch.isfinite(moved).all(1) & torch.isfinite(size)
    relative = (moved / size[:, None]).masked_fill(~(known & (size > 0))[:, None], torch.nan)
    slopes = (moved / distance).masked_fill(~known[:, None], torch.nan)
    return Sensitivity(relative.amax(1), relative.mean(1), slopes.amax(1))
