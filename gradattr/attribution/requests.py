"""A method as data: which gradients it needs, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from gradattr.attribution.paths.blur_path import BlurPath
from gradattr.attribution.post_steps import PostStep, check_steps
from gradattr.attribution.procedure import Procedure
from gradattr.attribution.recipes import RECIPES, TARGETS
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.sampling import NoisyCopies, RandomPaths, StraightPath
from gradattr.attribution.sources import Source
from gradattr.attribution.target import TargetName


@dataclass(frozen=True)
class MethodRequest:
    """One method of a call. Build it with ``method_request``, or freely from a sampling and a
    reduction."""

    id: str
    source: Source
    reduction: Reduction
    target: TargetName = "logit_pred"
    smooth: NoisyCopies | None = None
    """The mean of the maps of so many noisy copies, in place of the map of the sample."""
    post: tuple[PostStep, ...] = ()
    """What is done to the finished map, in order."""

    def __post_init__(self) -> None:
        if self.reduction is Reduction.TIMES_DIFFERENCE and not isinstance(
            self.source, StraightPath | RandomPaths | BlurPath
        ):
            raise ValueError(f"request '{self.id}': x - x' needs a path from a baseline")
        check_steps(self.post)

    def evaluations(self, classes: int, shape: tuple[int, ...]) -> int:
        """Model evaluations per sample, at most, when it runs alone, of a model of so many classes
        and samples of this shape. An evaluation is a forward pass, with a backward pass where the
        method needs one; those that fix the class or score a baseline are not counted."""
        own = self.source.evaluations
        count = own if isinstance(own, int) else own(classes, shape)
        return count if self.smooth is None else self.smooth.samples * count

    def obstacle(self, network: nn.Module, x: Tensor) -> str | None:
        """Why the method does not fit a network (eval mode; ``x`` (n, ...) are inputs to try): the
        end of a sentence. None if it fits."""
        return self.source.obstacle(network, x) if isinstance(self.source, Procedure) else None

    def chosen(self, network: nn.Module, x: Tensor) -> str | None:
        """What the method chooses by itself on a network that it fits, such as a layer."""
        return self.source.chosen(network, x) if isinstance(self.source, Procedure) else None


def method_request(
    name: str,
    *,
    id: str | None = None,
    target: TargetName | None = None,
    smooth: NoisyCopies | None = None,
    post: Sequence[PostStep] = (),
    **parameters: Any,
) -> MethodRequest:
    """The request for a method of the catalogue, by name and parameters.

    ``id`` names the result, by default ``name``. ``target`` is by default what the method's authors
    differentiate: 'prob_pred' of uni and agi, else 'logit_pred'. ``smooth``: the mean of the maps
    of so many noisy copies in place of the sample's. ``post``: steps on the finished map, in order.
    Parameters and their defaults are those of the catalogue (``method_info``), where a baseline is
    a ``Baseline`` and a linear model an ``Evaluator``.

    Raises ValueError for an unknown name, a parameter that the method does not have or that is
    missing, and a value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown method '{name}': expected one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    try:
        signature(recipe).bind(**parameters)
    except TypeError as error:
        expected = ", ".join(signature(recipe).parameters) or "none"
        raise ValueError(f"method '{name}': {error} (parameters: {expected})") from None
    source, reduction = recipe(**parameters)
    if target is None:
        target = TARGETS.get(name, "logit_pred")
    return MethodRequest(id or name, source, reduction, target, smooth, tuple(post))
