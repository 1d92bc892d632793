"""The same methods, classes and random numbers again: at other points, or on another model.

A map that is compared with another one of the same image must differ by what was changed and by
nothing else. So the class explained at x is explained elsewhere too, whatever is predicted there,
and what is random in a method is drawn from the image's seed, as at x.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization, per_channel
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.passes import attribute
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution
from gradattr.errors import UsageError


class Elsewhere(NamedTuple):
    """Of p points."""

    maps: list[Tensor]
    """One (p, c, h, w) or (p, 1, h, w) per method."""
    logits: Tensor
    """(p, classes) at the points."""


class RepeatedMaps:
    """Maps of x (n, c, h, w) by every method requested, and how to make them again.

    ``at_x`` has one ``Attribution`` per request; ``predicted`` (n,) are the predicted classes. The
    arguments are those of ``attribute``, which see for what it raises, and ``at_x`` what that has
    found with them, where it is known already.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        x: Tensor,
        requests: Sequence[MethodRequest],
        *,
        seeds: Sequence[int],
        labels: Tensor | None = None,
        normalization: Normalization | None = None,
        batch_size: int = 64,
        at_x: Sequence[Attribution] | None = None,
    ) -> None:
        check_images(x, seeds, requests)
        if at_x is not None:
            _check_known(at_x, x, requests)
        self.evaluator = evaluator
        self.x = x.detach()
        self.seeds = list(seeds)
        self.normalization = normalization or Normalization()
        self.batch_size = batch_size
        self.at_x: list[Attribution] = (
            list(at_x)
            if at_x is not None
            else attribute(
                evaluator,
                self.x,
                requests,
                seeds=self.seeds,
                labels=labels,
                normalization=self.normalization,
                batch_size=batch_size,
            )
        )
        self.predicted = self.at_x[0].logits.argmax(1)
        #: Requests that explain the predicted class explain it by its number from now on.
        self.pinned = [pinned(request) for request in requests]
        true = [isinstance(r.target, str) and r.target.endswith("_true") for r in requests]
        self._labels = [labels if is_true else self.predicted for is_true in true]

    @property
    def maps(self) -> list[Tensor]:
        """One (n, c, h, w) or (n, 1, h, w) per method, at x."""
        return [result.maps for result in self.at_x]

    def at(
        self,
        points: Tensor,
        rows: Tensor,
        *,
        methods: Sequence[int] | None = None,
        evaluator: Evaluator | None = None,
    ) -> Elsewhere:
        """Maps at points (p, c, h, w), point i in place of image ``rows[i]``.

        ``methods``: numbers of the requests, by default all; ``evaluator``: of another model.
        """
        asked = list(range(len(self.pinned))) if methods is None else list(methods)
        found: dict[int, Attribution] = {}
        # Two calls only where some explain the prediction and others the label.
        while missing := [number for number in asked if number not in found]:
            labels = self._labels[missing[0]]
            group = [number for number in missing if self._labels[number] is labels]
            made = attribute(
                evaluator or self.evaluator,
                points,
                [self.pinned[number] for number in group],
                seeds=[self.seeds[row] for row in rows.tolist()],
                labels=None if labels is None else labels.to(rows.device)[rows],
                normalization=self.normalization,
                batch_size=self.batch_size,
            )
            found |= dict(zip(group, made, strict=True))
        return Elsewhere([found[number].maps for number in asked], found[asked[0]].logits)

    def per_pixel_unit(self) -> Tensor:
        """How far the input goes when a pixel goes from 0 to 1, per channel: broadcasts."""
        white, black = self.normalization.white, self.normalization.black
        return per_channel(white, self.x) - per_channel(black, self.x)


def pinned(request: MethodRequest) -> MethodRequest:
    """The request, explaining the class that it is given as label instead of the prediction."""
    if not isinstance(request.target, str):
        return request
    kind, _, _ = request.target.partition("_")
    return replace(request, target=f"{kind}_true")


def pieces(n: int, copies: int, at_once: int) -> Iterator[list[tuple[int, slice]]]:
    """All (copy, image) pairs, at most ``at_once`` at a time, as (copy, consecutive images)."""
    batch: list[tuple[int, slice]] = []
    free = at_once
    for copy in range(copies):
        first = 0
        while first < n:
            last = min(n, first + free)
            batch.append((copy, slice(first, last)))
            free -= last - first
            first = last
            if free == 0:
                yield batch
                batch, free = [], at_once
    if batch:
        yield batch


def rows_of(batch: Sequence[tuple[int, slice]], device: torch.device) -> Tensor:
    """(p,) the images of a batch of ``pieces``."""
    return torch.cat([torch.arange(part.start, part.stop, device=device) for _, part in batch])


def copies_of(batch: Sequence[tuple[int, slice]]) -> Tensor:
    """(p,) the copies of a batch of ``pieces``, on the CPU."""
    return torch.cat([torch.full((part.stop - part.start,), copy) for copy, part in batch])


def _check_known(at_x: Sequence[Attribution], x: Tensor, requests: Sequence[MethodRequest]) -> None:
    """Raise UsageError unless there is one result per request, of as many images."""
    known = [(one.method, len(one.maps)) for one in at_x]
    if known != [(request.id, len(x)) for request in requests]:
        raise UsageError(
            f"at_x has maps of {', '.join(f'{count} images by {name}' for name, count in known)}; "
            f"expected {len(x)} by each of {', '.join(request.id for request in requests)}"
        )


def check_images(x: Tensor, seeds: Sequence[int], methods: Sequence[object]) -> None:
    """Raise UsageError unless x is (n, c, h, w), n >= 1, with n seeds, and there is a method."""
    if x.dim() != 4 or len(x) == 0 or len(seeds) != len(x):
        raise UsageError(
            f"inputs of shape {tuple(x.shape)} with {len(seeds)} seeds; expected (n, c, h, w), "
            "n >= 1, and one seed for each"
        )
    if not methods:
        raise UsageError("no method to judge: at least one is needed")
