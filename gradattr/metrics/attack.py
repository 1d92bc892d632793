r"""Attacks on maps: images that look the same and are classed the same, with other maps.

From the papers: the question - which x + d, :math:`\|d\|_\infty \le \epsilon`, keeps the predicted
label and changes the map most (Ghorbani et al. 2019) -, the two figures reported (Spearman's
correlation and top-k intersection of the maps before and after), random sign perturbations as the
weakest attack, iterated sign steps along the derivative of the map's change, keeping the best point
whose label is unchanged, the top-k objective (Ghorbani et al. 2019), and softplus in place of ReLU
so that the derivative exists (Dombrowski et al. 2019).

Ours: rank correlation of the maps as objective; best of N random signs where the paper takes one;
the search that only asks for maps, so that every method can be attacked and not only those whose
maps can be differentiated: sign ascent by finite differences, where a step sends a random share of
the pixels to the other side of the ball and stays if that was a gain. (It is a random search. With
the same start and 25 maps it gained more than SPSA, which estimates a gradient from random
directions, on two small convolutional networks; nothing larger was tried.) The search along the
derivative begins at the best random corner, follows the cosine of the maps where the objective is
rank correlation (which has no derivative), judges every point by the method's own map on the
network as it is, and returns to the last point that kept its label, with half the step, where a
label was lost. Both are lower bounds of what an attack can do: a high correlation says that this
search found nothing worse, and the searches are not equally strong, so that methods are compared
by one kind only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution
from gradattr.metrics.attack_search import (
    Found,
    follow_derivative,
    follow_differences,
    try_corners,
)
from gradattr.metrics.attack_settings import AttackSettings, PixelBall
from gradattr.metrics.map_change import spearman, top_intersection
from gradattr.metrics.map_derivative import check_differentiable
from gradattr.metrics.repeated_maps import RepeatedMaps


@dataclass(frozen=True)
class Attacked:
    """Of one method, n images. Figures are float64 on the CPU; NaN where no candidate kept its
    label (there is no attacked map then), and where a map is constant or not finite."""

    method: str
    """The request's id."""
    x: Tensor
    """(n, c, h, w) the images attacked, within eps; those without a candidate as they were."""
    before: Tensor
    """(n, c, h, w) or (n, 1, h, w): maps of the images as they were."""
    after: Tensor
    """The same of the attacked images."""
    spearman: Tensor
    """(n,) rank correlation of the maps, -1 to 1. Higher: more robust."""
    top_intersection: Tensor
    """(n,) share of the top pixels that both have, 0 to 1. Higher: more robust."""
    rejected: Tensor
    """(n,) share of the candidates that were rejected, because their label was another one."""
    evaluations: int
    """Model evaluations per image, were the method attacked alone (as ``Attribution`` counts them;
    a step along a derivative counts as two)."""


def attack_maps(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    labels: Tensor | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
    settings: AttackSettings | None = None,
    at_x: Sequence[Attribution] | None = None,
) -> list[Attacked]:
    """Attack the maps of x (n, c, h, w), each method's own; one ``Attacked`` per request.

    ``normalization`` says how long eps is, and which pixels there are. ``at_x``: the maps of x,
    where they are known. All other arguments are those of ``attribute``. What is random depends on
    an image's seed only; the random corners of the ball are evaluated once for all methods.

    Raises UsageError for arguments that do not fit, and MethodError where ``settings.kind`` is
    'gradient' and a method is not one of gradient, saliency and input x gradient.
    """
    settings = settings or AttackSettings()
    if settings.kind == "gradient":
        for request in requests:
            check_differentiable(request)
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
    ball = PixelBall(again.x, again.normalization, settings.eps)
    found = [Found(again.x, maps, settings) for maps in again.maps]
    try_corners(again, ball, settings.candidates, found)
    follow = follow_derivative if settings.kind == "gradient" else follow_differences
    for number, best in enumerate(found):
        follow(again, ball, settings, number, best)
    classes = again.at_x[0].logits.shape[1]
    return [
        _result(request, best, settings, request.evaluations(classes, tuple(x.shape[1:])))
        for request, best in zip(requests, found, strict=True)
    ]


def _result(
    request: MethodRequest, best: Found, settings: AttackSettings, per_map: int
) -> Attacked:
    nothing = torch.isinf(best.likeness)
    intersection = top_intersection(best.before, best.after, settings.top)
    return Attacked(
        request.id,
        best.points,
        best.before,
        best.after,
        spearman(best.before, best.after).masked_fill(nothing, torch.nan),
        intersection.masked_fill(nothing, torch.nan),
        rejected=best.lost / best.tried,
        evaluations=(1 + best.tried) * per_map + 2 * best.derivatives,
    )
