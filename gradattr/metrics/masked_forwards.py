"""What perturbation metrics share: their questions checked, and scores of many changed images.

Changed images (masked, blended, imputed) are evaluated without a graph, many at a time: the
images, methods and levels of a call fill the micro-batches together. What is held at once is one
micro-batch and the results.

Shapes: n images, c channels, h x w pixels, b changed images of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradattr.attribution.evaluator import Evaluator
from gradattr.errors import UsageError

#: What is measured of the class explained: its softmax probability, or its logit.
Score = Literal["prob", "logit"]

#: Changed images at a time on a CPU, at most: larger batches only leave its caches.
CPU_POINTS = 32


class Answers(NamedTuple):
    """What the model says of b images."""

    scores: Tensor
    """(b,) float64 on the CPU: probability or logit of the class explained."""
    predicted: Tensor
    """(b,) int64 on the CPU: the class with the largest logit."""


def image_scores(
    evaluator: Evaluator, x: Tensor, index: Tensor, *, score: Score = "prob", batch_size: int
) -> Tensor:
    """(n,) float64: the score of class ``index`` (n,) of each image of x (n, ...)."""
    points = at_once(x, batch_size)
    pairs = zip(x.split(points), index.split(points), strict=True)
    return answers(evaluator, pairs, score).scores


def answers(
    evaluator: Evaluator, batches: Iterable[tuple[Tensor, Tensor]], score: Score
) -> Answers:
    """What the model says of every (images (b, ...), classes (b,)), one after the other.

    The softmax is taken in float64: a drop below a probability that float32 rounds to 1 is seen.
    """
    scores, predicted = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.int64)]
    for points, index in batches:
        logits = evaluator.logits(points).double()
        at = index.to(logits.device)[:, None]
        if score == "prob":
            scores.append(torch.log_softmax(logits, dim=1).gather(1, at)[:, 0].exp())
        else:
            scores.append(logits.gather(1, at)[:, 0])
        predicted.append(logits.argmax(1))
    return Answers(
        torch.cat([part.cpu() for part in scores]), torch.cat([part.cpu() for part in predicted])
    )


def at_once(x: Tensor, batch_size: int) -> int:
    """How many images of a micro-batch: ``batch_size``, and less on a CPU."""
    if batch_size < 1:
        raise UsageError(f"batch_size {batch_size} was given, expected at least 1")
    return min(batch_size, CPU_POINTS) if x.device.type == "cpu" else batch_size


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
    given = torch.as_tensor(value).to(x)
    if given.dim() < 4:
        given = given.reshape(*[1] * (4 - given.dim()), *given.shape)
    try:
        return given.expand(len(given), *x.shape[1:])[: len(x)].expand(
            1 if len(given) == 1 else len(x), *x.shape[1:]
        )
    except RuntimeError:
        raise UsageError(
            f"a tensor of shape {tuple(given.shape)} was given to stand for missing pixels, "
            f"expected one that broadcasts over {tuple(x.shape)}"
        ) from None


def rows_of(images: Tensor, numbers: Tensor) -> Tensor:
    """The images (1 or n, c, h, w) of these numbers (b,): (b, c, h, w)."""
    if len(images) == 1:
        return images.expand(len(numbers), *images.shape[1:])
    return images[numbers.to(images.device)]
