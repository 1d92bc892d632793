r"""Deletion and insertion curves (Petsiuk et al. 2018): what the model says as pixels go, or come.

Deletion replaces the highest-ranked pixels by a fill value, a step at a time; insertion starts
from an image without detail (a blur) and puts them back. With steps j = 0..B of d coordinates,
``round(j d / B)`` of them are changed at step j, and over the scores :math:`s_j`

.. math:: AUC = \frac{1}{B} \Big( \frac{s_0 + s_B}{2} + \sum_{j=1}^{B-1} s_j \Big),

the trapezoid over the share of the pixels, 0 to 1. A faithful map has a low deletion AUC and a high
insertion AUC.

What chance and the reverse of a map give: deletion in some order is insertion, from the fill, in
the reversed order read backwards, for every model. So with ``start=fill`` the insertion AUC of -A
equals the deletion AUC of A (where B divides d). On a linear model the deletion curves of A and -A,
and deletion and insertion of A, add up to f(x) + f(fill) at every step: their AUCs lie
symmetrically about (f(x) + f(fill)) / 2, which is what a random map gives in expectation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.baselines import Blur, Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.errors import UsageError
from gradattr.metrics.coordinate_order import Rank, descending_ranks, known
from gradattr.metrics.masked_forwards import (
    Score,
    answers,
    as_images,
    at_once,
    image_scores,
    refuse_misfits,
    rows_of,
)

#: What insertion starts from unless something is given.
START = Blur(kernel=11, sigma=5.0)


class Curves(NamedTuple):
    """One method's curves; NaN where the map is not finite.

    A map with equal values (a constant one, too) is ranked at random there, so its curve is that
    of chance and not NaN.
    """

    values: Tensor
    """(n, steps + 1) float64: score of the class explained at each step, in the unit of the
    score (probability 0 to 1, or logit). Deletion begins with the image, insertion ends with it."""
    auc: Tensor
    """(n,) float64: trapezoid over the share of pixels, in the same unit. Lower is better for
    deletion, higher for insertion."""


def deletion(
    evaluator: Evaluator,
    x: Tensor,
    maps: Sequence[Tensor],
    index: Tensor,
    *,
    seeds: Sequence[int],
    steps: int = 10,
    fill: float | Tensor = 0.0,
    per_pixel: bool = True,
    rank: Rank = "signed",
    score: Score = "prob",
    batch_size: int,
    unchanged: Tensor | None = None,
) -> list[Curves]:
    """Curves of each of ``maps`` as its highest-ranked pixels of x (n, c, h, w) become ``fill``.

    ``index`` (n,): classes explained; ``fill``: a number, or what broadcasts over x; ``per_pixel``:
    all channels of a pixel go together, else every coordinate on its own; ``seeds`` (n,): break
    ties; ``unchanged`` (n,): scores of x where they are known (``image_scores``). The images
    without and with all pixels changed are evaluated once for all methods, and a fill that all
    images share once for all images.

    Raises UsageError for shapes that do not fit.
    """
    refuse_misfits(x, maps, index, seeds, score)
    ends = _Ends(evaluator, index, score, batch_size)
    gone = as_images(fill, x)
    first = ends.of(x) if unchanged is None else unchanged.double().cpu()
    walk = _Walk(x, gone, first, ends.of(gone), maps, seeds, steps, per_pixel, rank)
    return walk.curves(ends)


def insertion(
    evaluator: Evaluator,
    x: Tensor,
    maps: Sequence[Tensor],
    index: Tensor,
    *,
    seeds: Sequence[int],
    steps: int = 10,
    start: float | Tensor | None = None,
    per_pixel: bool = True,
    rank: Rank = "signed",
    score: Score = "prob",
    batch_size: int,
    unchanged: Tensor | None = None,
) -> list[Curves]:
    """Curves of each of ``maps`` as its highest-ranked pixels appear in ``start``.

    ``start``: what broadcasts over x; by default x under a Gaussian blur of 11 x 11 pixels, sigma
    5. All else as in ``deletion``.
    """
    refuse_misfits(x, maps, index, seeds, score)
    ends = _Ends(evaluator, index, score, batch_size)
    blurred = START.draw(x, seeds, 0, Normalization()) if start is None else as_images(start, x)
    last = ends.of(x) if unchanged is None else unchanged.double().cpu()
    walk = _Walk(blurred, x, ends.of(blurred), last, maps, seeds, steps, per_pixel, rank)
    return walk.curves(ends)


@dataclass(frozen=True)
class _Ends:
    """How images are evaluated, for their own class each."""

    evaluator: Evaluator
    index: Tensor
    score: Score
    batch_size: int

    def of(self, images: Tensor) -> Tensor:
        """(n,) the scores of images (1 or n, c, h, w), one image evaluated once."""
        if len(images) != 1 or len(self.index) == 1:
            return image_scores(
                self.evaluator, images, self.index, score=self.score, batch_size=self.batch_size
            )
        classes, inverse = self.index.unique(return_inverse=True)
        logits = self.evaluator.logits(images)
        batches = [(images, classes[:1])]
        del batches
        return _scores_of_classes(logits, classes, self.score)[inverse.cpu()]
