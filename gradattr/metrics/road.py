r"""ROAD, remove and debias (Rong et al. 2022): removal that leaves no shape for the model to read.

Removed pixels are filled in from those around them (``imputation``) plus a little noise, as in the
paper's code. The most relevant pixels are removed first (MoRF) and the least relevant first (LeRF).
A faithful map makes the first curve fall and keeps the second up, so

.. math:: score = \frac{1}{K} \sum_k \frac{LeRF(k) - MoRF(k)}{2}

is high. The reverse of a map exchanges its curves and so changes the score's sign (for maps without
equal values); a random map has 0 in expectation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.noise import standard_normal
from gradattr.errors import UsageError
from gradattr.metrics.coordinate_order import Rank, descending_ranks, known, values_to_rank
from gradattr.metrics.imputation import impute
from gradattr.metrics.masked_forwards import Questions, Score, refuse_misfits

PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class Road(NamedTuple):
    """One method over n images and k percentages; float64. NaN where the map is not finite."""

    morf: Tensor
    """(n, k): score of the class explained with the most relevant pixels removed, in the unit of
    the score (probability 0 to 1, or logit). Lower is better."""
    lerf: Tensor
    """(n, k): the same with the least relevant pixels removed. Higher is better."""
    morf_correct: Tensor
    """(n, k): 1 where the prediction is the label, else 0; its mean over images is the paper's
    accuracy. Lower is better."""
    lerf_correct: Tensor
    """(n, k): the same with the least relevant pixels removed. Higher is better."""
    score: Tensor
    """(n,): mean over the percentages of (lerf - morf) / 2; -1/2 to 1/2 for probabilities. Higher
    is better."""


def road(
    evaluator: Evaluator,
    x: Tensor,
    maps: Sequence[Tensor],
    index: Tensor,
    labels: Tensor | None = None,
    *,
    seeds: Sequence[int],
    percentages: Sequence[float] = PERCENTAGES,
    noise: float = 0.01,
    rank: Rank = "signed",
    score: Score = "prob",
    batch_size: int,
) -> list[Road]:
    """ROAD of each of ``maps`` on x (n, c, h, w), for the classes ``index`` (n,).

    ``labels`` (n,): what counts as a correct prediction; without them ``index``. At a percentage p
    ``round(p / 100 hw)`` pixels are removed. ``noise``: standard deviation of what is added to the
    filled-in pixels, in units of x; an image's draw (from its seed) serves all its percentages,
    orders and methods. ``seeds`` also break ties. The systems are solved on the CPU.

    Raises UsageError for shapes or percentages that do not fit.
    """
    refuse_misfits(x, maps, index, seeds, score)
    pixels = x.shape[2] * x.shape[3]
    counts = [round(percentage * pixels / 100) for percentage in percentages]
    if not counts or min(counts) < 0 or max(counts) >= pixels or noise < 0:
        raise UsageError(
            f"percentages {list(percentages)}, noise {noise} were given for {pixels} pixels; "
            "expected percentages from 0 that leave at least one pixel, and no negative noise"
        )
    questions = Questions(evaluator, index, score, batch_size)
    removal = _Removal(x, tuple(seeds), tuple(counts), noise, rank)
    found = questions.of_changed(removal.images(maps, batch_size))
    shape = (len(maps), len(x), 2, len(counts))
    truth = (index if labels is None else labels).cpu().view(1, -1, 1, 1)
    correct = (found.predicted.view(shape) == truth).double()
    results = []
    for given, scores, right in zip(maps, found.scores.view(shape), correct, strict=True):
        missing = ~known(given)
        scores[missing], right[missing] = torch.nan, torch.nan
        morf, lerf = scores[:, 0], scores[:, 1]
        results.append(Road(morf, lerf, right[:, 0], right[:, 1], ((lerf - morf) / 2).mean(1)))
    return results


@dataclass(frozen=True)
class _Removal:
    """How pixels of x are removed."""

    x: Tensor
    seeds: tuple[int, ...]
    counts: tuple[int, ...]
    noise: float
    rank: Rank

    def images(self, maps: Sequence[Tensor], points: int) -> Iterator[tuple[Tensor, Tensor]]:
        """By method, image, order (MoRF, LeRF) and percentage: (images filled in, numbers)."""
        waiting: list[tuple[int, Tensor]] = []
        for given in maps:
            for number in range(len(self.x)):
                waiting += [(number, gone) for gone in self._removed(given, number)]
                while len(waiting) >= points:
                    yield self._filled_in(waiting[:points])
                    waiting = waiting[points:]
        if waiting:
            yield self._filled_in(waiting)

    def _removed(self, given: Tensor, number: int) -> list[Tensor]:
        """What goes of one image: (h, w) booleans, MoRF by percentage, then LeRF."""
        values = values_to_rank(given[number][None], rank=self.rank)
        ranks = descending_ranks(values, self.seeds[number : number + 1])[0, 0].to(self.x.device)
        last = [ranks >= ranks.numel() - count for count in self.counts]
        return [*(ranks < count for count in self.counts), *last]

    def _filled_in(self, jobs: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor([number for number, _ in jobs])
        removed = torch.stack([gone for _, gone in jobs])
        own = sorted({number for number, _ in jobs})
        drawn = standard_normal(
            torch.empty(len(own), *self.x.shape[1:], dtype=self.x.dtype),  # the same on any device
            [self.seeds[number] for number in own],
            "noise of filled-in pixels",
        )
        copies = torch.searchsorted(torch.tensor(own), numbers)
        added = (self.noise * drawn)[copies].to(self.x)
        images = self.x[numbers.to(self.x.device)]
        return impute(images, removed) + removed[:, None] * added, numbers
