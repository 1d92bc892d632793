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
from gradattr.metrics.coordinate_order import Rank, descending_ranks, known, values_to_rank
from gradattr.metrics.masked_forwards import (
    Questions,
    Score,
    as_images,
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
    questions = Questions(evaluator, index, score, batch_size)
    gone = as_images(fill, x)
    whole = questions.of_unchanged(x, unchanged)
    change = _Change(x, gone, whole, questions.of_images(gone), steps, per_pixel, rank)
    return change.curves(questions, maps, seeds)


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
    questions = Questions(evaluator, index, score, batch_size)
    blank = START.draw(x, seeds, 0, Normalization()) if start is None else as_images(start, x)
    whole = questions.of_unchanged(x, unchanged)
    change = _Change(blank, x, questions.of_images(blank), whole, steps, per_pixel, rank)
    return change.curves(questions, maps, seeds)


@dataclass(frozen=True)
class _Change:
    """From the images ``before`` to the images ``after``, (1 or n, c, h, w), in some steps."""

    before: Tensor
    after: Tensor
    first: Tensor
    """(n,): scores before the first step."""
    last: Tensor
    """(n,): scores after the last step."""
    steps: int
    per_pixel: bool
    rank: Rank

    def curves(
        self, questions: Questions, maps: Sequence[Tensor], seeds: Sequence[int]
    ) -> list[Curves]:
        """The curves of each method."""
        self._refuse(maps)
        n, inner = len(self.first), self.steps - 1
        found = questions.of_changed(self._images(questions, maps, seeds)).scores
        results = []
        for method, given in zip(found.view(len(maps), n, inner), maps, strict=True):
            values = torch.cat([self.first[:, None], method, self.last[:, None]], dim=1)
            values[~known(given)] = torch.nan
            auc = (values.sum(1) - (values[:, 0] + values[:, -1]) / 2) / self.steps
            results.append(Curves(values, auc))
        return results

    def _images(
        self, questions: Questions, maps: Sequence[Tensor], seeds: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All steps but the first and the last: by method, then by image, then by step."""
        n, inner, points = len(self.first), self.steps - 1, questions.batch_size
        ranks: dict[int, Tensor] = {}  # by pair of a method and an image, while it is needed
        for first in range(0, len(maps) * n * inner, points):
            jobs = torch.arange(first, min(first + points, len(maps) * n * inner))
            pairs = range(int(jobs[0]) // inner, int(jobs[-1]) // inner + 1)
            new = [pair for pair in pairs if pair not in ranks]
            ranked = self._ranks([(maps[pair // n], pair % n) for pair in new], seeds)
            known_before = {pair: ranks[pair] for pair in pairs if pair in ranks}
            ranks = {**known_before, **dict(zip(new, ranked, strict=True))}
            own = torch.stack([ranks[pair] for pair in pairs])
            counts = self._counts(own[0].numel())[jobs % inner].to(own.device)
            ahead = own[(jobs // inner - pairs[0]).to(own.device)] < counts.view(-1, 1, 1, 1)
            numbers = jobs // inner % n
            before, after = rows_of(self.before, numbers), rows_of(self.after, numbers)
            yield torch.where(ahead, after, before), numbers

    def _ranks(self, rows: Sequence[tuple[Tensor, int]], seeds: Sequence[int]) -> Sequence[Tensor]:
        """Ranks (1 or c, h, w) of each of (a method's maps, number of the image)."""
        if not rows:
            return []
        values = [
            values_to_rank(given[image][None], per_pixel=self.per_pixel, rank=self.rank)
            for given, image in rows
        ]
        stacked = torch.cat(values).to(self.before.device)
        return list(descending_ranks(stacked, [seeds[image] for _, image in rows]))

    def _counts(self, coordinates: int) -> Tensor:
        """(steps - 1,) how many coordinates are changed at each step between the ends."""
        counts = [round(step * coordinates / self.steps) for step in range(1, self.steps)]
        return torch.tensor(counts, dtype=torch.int32)

    def _refuse(self, maps: Sequence[Tensor]) -> None:
        if self.steps < 1:
            raise UsageError(f"steps {self.steps} were given, expected at least 1")
        channels = max(self.before.shape[1], self.after.shape[1])
        if not self.per_pixel and any(given.shape[1] != channels for given in maps):
            raise UsageError(
                f"maps of one channel rank pixels, not the coordinates of {channels} channels; "
                "expected per_pixel=True, or maps of as many channels"
            )
