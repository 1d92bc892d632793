"""What perturbation metrics share: their questions checked, and scores of many changed images.

Changed images (masked, blended, imputed) are evaluated without a graph, many at a time: the
images, methods and levels of a call fill the micro-batches together. What is held at once is one
micro-batch and the results.

Shapes: n images, c channels, h x w pixels, b changed images of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.evaluator import Evaluator
from gradattr.errors import UsageError

#: What is measured of the class explained: its softmax probability, or its logit.
Score = Literal["prob", "logit"]


class Answers(NamedTuple):
    """What the model says of some images."""

    scores: Tensor
    """(b,) float64 on the CPU: probability or logit of the class explained."""
    predicted: Tensor
    """(b,) int64 on the CPU: the class with the largest logit."""


@dataclass(frozen=True)
class Questions:
    """What is asked about n images, whatever is done to them.

    The softmax is taken in float64: a drop below a probability that float32 rounds to 1 is seen.
    """

    evaluator: Evaluator
    index: Tensor
    """(n,): the class explained of each image."""
    score: Score
    batch_size: int
    """Most points evaluated at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size {self.batch_size} was given, expected at least 1")

    def of_images(self, images: Tensor) -> Tensor:
        """(n,) float64: scores of one image each; (1, c, h, w) is one for all, evaluated once."""
        if len(images) == 1:
            logits = self.evaluator.logits(images)
            return scores_of(logits.expand(len(self.index), -1), self.index, self.score).cpu()
        numbers, points = torch.arange(len(images)), self.batch_size
        firsts = range(0, len(images), points)
        return self.of_changed(
            (images[first : first + points], numbers[first : first + points]) for first in firsts
        ).scores

    def of_unchanged(self, x: Tensor, known: Tensor | None) -> Tensor:
        """(n,) float64 on the CPU: scores of x (n, c, h, w), or what is known of them.

        Raises UsageError if that is not one score per image.
        """
        if known is None:
            return self.of_images(x)
        if known.shape != (len(x),):
            raise UsageError(
                f"unchanged of shape {tuple(known.shape)} was given, expected a score for each of "
                f"{len(x)} images"
            )
        return known.double().cpu()

    def of_changed(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Answers:
        """Answers to all of (changed images (b, c, h, w), numbers of the images behind (b,))."""
        scores = [torch.empty(0, dtype=torch.float64)]
        predicted = [torch.empty(0, dtype=torch.int64)]
        for changed, numbers in batches:
            logits = self.evaluator.logits(changed)
            index = self.index[numbers.to(self.index.device)]
            scores.append(scores_of(logits, index, self.score))
            predicted.append(logits.argmax(1))
        # Copied when all are on their way, so that a GPU need not wait for each.
        return Answers(
            torch.cat([part.cpu() for part in scores]),
            torch.cat([part.cpu() for part in predicted]),
        )


def scores_of(logits: Tensor, index: Tensor, score: Score) -> Tensor:
    """(b,) float64: probability or logit of the classes ``index`` (b,), of logits (b, classes)."""
    values = logits.double()
    if score == "prob":
        values = torch.log_softmax(values, dim=1)
    chosen = values.gather(1, index.to(values.device)[:, None])[:, 0]
    return chosen.exp() if score == "prob" else chosen


def image_scores(
    evaluator: Evaluator, x: Tensor, index: Tensor, *, score: Score = "prob", batch_size: int
) -> Tensor:
    """(n,) float64: the score of class ``index`` (n,) of each image of x (n, c, h, w).

    What deletion, insertion and MuFidelity take as ``unchanged``, so that x is evaluated once.
    """
    return Questions(evaluator, index, score, batch_size).of_images(x)


def refuse_misfits(
    x: Tensor, maps: Sequence[Tensor], index: Tensor, seeds: Sequence[int], score: str
) -> None:
    """UsageError unless x is (n, c, h, w), each map (n, c or 1, h, w), and n classes and seeds."""
    if x.dim() != 4:
        raise UsageError(f"x of shape {tuple(x.shape)} was given, expected images (n, c, h, w)")
    for place, given in enumerate(maps):
        fits = given.dim() == 4 and given.shape[1] in (1, x.shape[1])
        if not fits or (len(given), *given.shape[2:]) != (len(x), *x.shape[2:]):
            raise UsageError(
                f"maps[{place}] of shape {tuple(given.shape)} were given for images "
                f"{tuple(x.shape)}, expected that shape, or one channel"
            )
    if index.shape != (len(x),) or len(seeds) != len(x):
        raise UsageError(
            f"index of shape {tuple(index.shape)} and {len(seeds)} seeds were given, expected a "
            f"class and a seed for each of {len(x)} images"
        )
    if score not in ("prob", "logit"):
        raise UsageError(f"score {score!r} was given, expected 'prob' or 'logit'")


def as_images(value: float | Tensor, x: Tensor) -> Tensor:
    """(1, c, h, w) if ``value`` is the same for all images of x, else (n, c, h, w).

    ``value``: a number, or a tensor that broadcasts over x (one value per channel: (1, c, 1, 1)).
    Raises UsageError if it does not.
    """
    given = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    shape = (1,) * (4 - given.dim()) + tuple(given.shape)
    pairs = zip(shape, x.shape, strict=False)
    if len(shape) != 4 or any(size not in (1, wanted) for size, wanted in pairs):
        raise UsageError(
            f"a tensor of shape {tuple(given.shape)} was given to stand for missing pixels, "
            f"expected a number or what broadcasts over {tuple(x.shape)}"
        )
    return given.view(shape).expand(shape[0], *x.shape[1:])


def rows_of(images: Tensor, numbers: Tensor) -> Tensor:
    """The images (1 or n, c, h, w) with the numbers (b,), as ``as_images`` gives them."""
    if len(images) == 1:
        return images.expand(len(numbers), *images.shape[1:])
    return images[numbers.to(images.device)]
