"""How the likeness of two maps changes with the image, for maps that are input gradients.

It takes a second derivative of the network; where that has ReLUs, softplus takes their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from gradattr.attribution.post_steps import apply_steps
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.sampling import AtInput
from gradattr.attribution.target import resolve_target
from gradattr.errors import MethodError
from gradattr.metrics.map_change import top_count
from gradattr.metrics.repeated_maps import RepeatedMaps
from gradattr.metrics.smooth_relu import smooth_forward

if TYPE_CHECKING:
    from gradattr.metrics.attack_settings import AttackSettings

_REDUCTIONS = (Reduction.MEAN, Reduction.MAGNITUDE, Reduction.TIMES_INPUT)


def check_differentiable(request: MethodRequest) -> None:
    """Raise MethodError unless the map is made of the gradient at the input alone."""
    at_input = isinstance(request.source, AtInput) and request.reduction in _REDUCTIONS
    if not at_input or request.smooth is not None:
        raise MethodError(
            f"method '{request.id}' cannot be attacked along a derivative: that needs gradient, "
            "saliency or input_x_gradient, without copies; use kind 'random_sign'"
        )


def likeness_derivative(
    again: RepeatedMaps, points: Tensor, rows: slice, number: int, settings: AttackSettings
) -> Tensor:
    """(p, c, h, w): derivative at the points of how alike their maps are to those of the images
    ``rows``, both by the softened network.

    Likeness is the cosine of the maps; for the objective 'top_k' it is the share of the sum of
    magnitudes that lies on the top pixels of the map before (Ghorbani et al. 2019).
    """
    leaf = points.detach().clone().requires_grad_(True)
    maps = _soft_maps(again, leaf, rows, number, settings.beta, twice=True)
    if not maps.requires_grad:
        return torch.zeros_like(points)
    if settings.objective == "top_k":
        scores = again.maps[number][rows].abs().sum(1).flatten(1)
        count = top_count(scores.shape[1], settings.top)
        top = torch.zeros_like(scores).scatter_(1, scores.topk(count, dim=1).indices, 1.0)
        magnitudes = maps.abs().sum(1).flatten(1)
        likeness = (magnitudes * top).sum(1) / magnitudes.sum(1).clamp_min(_tiny(maps))
    else:
        original = _soft_maps(again, again.x[rows], rows, number, settings.beta, twice=False)
        likeness = F.cosine_similarity(maps.flatten(1), original.flatten(1), eps=_tiny(maps))
    (slope,) = torch.autograd.grad(likeness.sum(), leaf, allow_unused=True)
    return torch.zeros_like(points) if slope is None else slope.nan_to_num(0, 0, 0)


def _soft_maps(
    again: RepeatedMaps, x: Tensor, rows: slice, number: int, beta: float, *, twice: bool
) -> Tensor:
    """Maps (p, c, h, w) of x (p, c, h, w), in place of the images ``rows``; with a graph if they
    are to be differentiated once more."""
    request = again.pinned[number]
    if not x.requires_grad:
        x = x.detach().clone().requires_grad_(True)
    logits = smooth_forward(again.evaluator.network, x, beta)
    index = again.at_x[number].index[rows]
    _, objective = resolve_target(request.target, logits.detach(), index)
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(objective(logits, index).sum(), x, create_graph=twice)
        if request.reduction is Reduction.MAGNITUDE:
            grad = grad.abs()
        elif request.reduction is Reduction.TIMES_INPUT:
            grad = grad * x
        maps = apply_steps(grad, request.post)
    return maps if twice else maps.detach()


def _tiny(maps: Tensor) -> float:
    return float(torch.finfo(maps.dtype).tiny) ** 0.5
