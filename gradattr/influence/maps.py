"""TFA maps: which pixels of a *training* image made it helpful or harmful for a query.

M = d S / d x_i, the gradient of the score in the pixels of the training image. With g the gradient
of the loss at (x_i, y_i) in the parameters and u that of the query,

    S = <g, u>                    M = d<g, u>/dx
    S = <g, u> / (||g|| ||u||)    M = (d<g, u>/dx - <g, u>/||g||^2 d(||g||^2/2)/dx) / (||g|| ||u||)

which is the mixed second-order product ``d/dx <g(x), v>`` with the constant direction
``v = (u/||u|| - S g/||g||) / ||g||``. The second term has no query in it: it is made once per
training image, as are the forward and the first backward pass, for all queries of that image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gradattr.errors import MethodError
from gradattr.influence.differentiable import Direction, Tape
from gradattr.influence.directions import Directions
from gradattr.influence.products import GradientProducts
from gradattr.seeds import derive_seed

Score = Literal["cos", "dot"]


@dataclass(frozen=True)
class Maps:
    """``values`` (p, ...), one map per pair, signed; ``scores`` (p,), the mean over the
    copies; ``undefined`` (p,): a gradient is zero (in any copy), so the cosine has no derivative
    there and adds nothing to the map."""

    values: Tensor
    scores: Tensor
    undefined: Tensor


def tfa_maps(
    products: GradientProducts,
    x: Tensor,
    y: Tensor,
    directions: Directions,
    pairs: Sequence[tuple[int, int]],
    *,
    score: Score = "cos",
    copies: int = 1,
    sigma: float | Tensor = 0.0,
    seeds: Sequence[int] | None = None,
    times_input: bool = False,
    batch_size: int | None = None,
    mixed: bool = False,
) -> Maps:
    """Maps (p, ...) of pairs (row of the training images x (n, ...), row of the directions).

    SmoothGrad: the mean map over ``copies`` of the image with noise ``sigma`` * N(0, 1), where
    ``sigma`` is in units of the model's input, a number or broadcast over an image (c, 1, 1). The
    gradient of each copy is its own. ``seeds`` has one number per pair; pairs with the same image
    and seed share their copies, and their cost. So seed by training image. ``times_input``: the
    map times the image. ``mixed``: derivatives of convolutions in
    bfloat16: pixels rank as in float32 (Spearman of magnitudes .9997), a third faster at 224
    pixels on a CPU that has it. At most ``batch_size`` copies at a time; results do not depend on
    it.

    Directions need not be gradients. Maps of influence are those of the directions
    ``Curvature.solve(...).directions`` or ``Ekfac.solve(...)`` with score 'dot': d/dx of
    u^T (C + λ I)^-1 g(x), the curvature held fixed. Maps of TracIn: ``tracin_maps``.

    Raises MethodError for arguments that do not fit together.
    """
    check_request(x, directions, pairs, score, copies, seeds)
    values = torch.zeros(len(pairs), *x.shape[1:], dtype=x.dtype, device=x.device)
    scores = x.new_zeros(len(pairs))
    undefined = torch.zeros(len(pairs), dtype=torch.bool, device=x.device)
    if not pairs:
        return Maps(values, scores, undefined)
    wiring = products.wiring(x, y)
    size = batch_size or max(1, (products.batch_size or 1) // 2)
    noise = NoisyCopies(copies, sigma)
    for block in blocks(pairs, seeds):
        prepared = [Direction.of(wiring, directions, query) for query in block.queries]
        for rows in block.batches(copies, size):
            images = noise.of(x, rows)
            labels = y[[row.image for row in rows]]
            tape = Tape.record(wiring, images, labels, products.loss, mixed=mixed)
            for query, found in zip(block.queries, slopes(tape, prepared, score), strict=True):
                for number, row in enumerate(rows):
                    for place in block.places[row.image, row.seed, query]:
                        values[place] += found.slopes[number] / copies
                        scores[place] += found.scores[number] / copies
                        undefined[place] |= found.undefined[number]
    if times_input:
        values *= x[[image for image, _ in pairs]]
    return Maps(values, scores, undefined)


def tracin_maps(
    checkpoints: Sequence[tuple[GradientProducts, Directions, float]],
    x: Tensor,
    y: Tensor,
    pairs: Sequence[tuple[int, int]],
    **options: Any,
) -> Maps:
    """Maps of TracIn (p, ...): the sum over checkpoints of rate * the 'dot' map there.

    ``checkpoints``: (products of the model there, gradients of the queries there, learning rate).
    ``options`` are those of ``tfa_maps`` but ``score``; noisy copies are the same at every
    checkpoint. Raises MethodError without checkpoints, and as ``tfa_maps`` does.
    """
    if not checkpoints:
        raise MethodError("maps of TracIn need at least one checkpoint with its learning rate")
    values, scores = x.new_zeros(len(pairs), *x.shape[1:]), x.new_zeros(len(pairs))
    undefined = torch.zeros(len(pairs), dtype=torch.bool, device=x.device)
    for products, directions, rate in checkpoints:
        found = tfa_maps(products, x, y, directions, pairs, **options, score="dot")
        values += rate * found.values
        scores += rate * found.scores
        undefined |= found.undefined
    return Maps(values, scores, undefined)


@dataclass(frozen=True)
class Row:
    """One noisy copy of one training image."""

    image: int
    seed: int
    copy: int


@dataclass(frozen=True)
class Block:
    """Training images that are asked for with the same queries, so that batches of their copies
    serve all of them: ``places`` says to which pairs (image, seed, query) belongs."""

    queries: tuple[int, ...]
    images: list[tuple[int, int]]
    places: dict[tuple[int, int, int], list[int]]

    def batches(self, copies: int, size: int) -> Iterator[list[Row]]:
        """Rows image by image, copy by copy, at most ``size`` at a time."""
        rows = [Row(image, seed, copy) for image, seed in self.images for copy in range(copies)]
        for first in range(0, len(rows), size):
            yield rows[first : first + size]


def blocks(pairs: Sequence[tuple[int, int]], seeds: Sequence[int] | None) -> list[Block]:
    """Pairs by training image and seed, and these by the queries they are asked for."""
    places: dict[tuple[int, int, int], list[int]] = {}
    queries: dict[tuple[int, int], set[int]] = {}
    for number, (image, query) in enumerate(pairs):
        seed = 0 if seeds is None else seeds[number]
        places.setdefault((image, seed, query), []).append(number)
        queries.setdefault((image, seed), set()).add(query)
    alike: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for key, asked in queries.items():
        alike.setdefault(tuple(sorted(asked)), []).append(key)
    return [Block(asked, images, places) for asked, images in alike.items()]


@dataclass(frozen=True)
class NoisyCopies:
    """Copies of images with noise that depends on the row's seed and copy number alone.

    Drawn in float32 and converted, so that a float64 run sees the noise of the float32 run.
    """

    copies: int
    sigma: float | Tensor

    def of(self, x: Tensor, rows: Sequence[Row]) -> Tensor:
        """The copies (rows, ...) of training images x (n, ...)."""
        images = x.detach()[[row.image for row in rows]]
        if not torch.as_tensor(self.sigma).any():
            return images
        generator = torch.Generator(x.device)
        draws = torch.empty(images.shape, dtype=torch.float32, device=x.device)
        for draw, row in zip(draws, rows, strict=True):
            generator.manual_seed(derive_seed(row.seed, "tfa noise", row.copy))
            draw.normal_(generator=generator)
        return images + torch.as_tensor(self.sigma, dtype=x.dtype, device=x.device) * draws.to(x)


@dataclass(frozen=True)
class Slopes:
    """For one query at n points: gradients of the score (n, ...), scores (n,), flags (n,)."""

    slopes: Tensor
    scores: Tensor
    undefined: Tensor


def slopes(tape: Tape, directions: Sequence[Direction], score: Score) -> Iterator[Slopes]:
    """d S / d leaf for every row of the tape, one direction after another."""
    shape = (-1, *[1] * (tape.leaf.dim() - 1))
    if score == "cos":
        halves = tape.half_squares()
        squares = 2 * halves.values
        if len(directions) > 1:
            shrink = tape.slope(halves)
    for direction in directions:
        dots = tape.dots(direction)
        if score == "dot":
            flags = torch.zeros(len(dots.values), dtype=torch.bool, device=dots.values.device)
            yield Slopes(tape.slope(dots), dots.values, flags)
            continue
        norms = squares.sqrt()
        undefined = norms * direction.norm == 0
        size = (norms * direction.norm).masked_fill(undefined, 1.0)
        along = dots.values / squares.masked_fill(undefined, 1.0)
        if len(directions) > 1:
            slope = tape.slope(dots) - along.view(shape) * shrink
        else:  # both terms in one pass
            slope = tape.slope(dots.minus(along, halves))
        yield Slopes(
            (slope / size.view(shape)).masked_fill(undefined.view(shape), 0.0),
            (dots.values / size).masked_fill(undefined, 0.0),
            undefined,
        )


def check_request(
    x: Tensor,
    directions: Directions,
    pairs: Sequence[tuple[int, int]],
    score: str,
    copies: int,
    seeds: Sequence[int] | None,
) -> None:
    if score not in ("cos", "dot"):
        raise MethodError(f"score '{score}' was given; maps exist of 'cos' and 'dot'")
    if copies < 1:
        raise MethodError(f"{copies} noisy copies were asked for; expected at least 1")
    if seeds is not None and len(seeds) != len(pairs):
        raise MethodError(f"{len(seeds)} seeds were given for {len(pairs)} pairs")
    for image, query in pairs:
        if not (0 <= image < len(x) and 0 <= query < len(directions)):
            raise MethodError(
                f"pair ({image}, {query}) does not exist: there are {len(x)} training images and "
                f"{len(directions)} queries"
            )
