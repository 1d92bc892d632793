"""A short summary of each training gradient, good enough to rank by: the count sketch.

Every element j of the parameters has a bucket h(j) and a sign s(j), drawn once from a seed and the
parameter's name. The sketch of a gradient g has the values

    sketch_b = sum over j with h(j) = b of  s(j) g_j / ||g||

so that for two gradients <sketch, sketch'> estimates their cosine without bias and with a standard
deviation of sqrt((1 + cos^2) / buckets): .016 for 4 096 buckets. Kept as float16, 8 kB per example;
the norm is kept beside it. A new query is ranked by one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradattr.errors import MethodError
from gradattr.influence.directions import Directions
from gradattr.influence.products import GradientProducts
from gradattr.seeds import derive_seed

BUCKETS = 4096


@dataclass(frozen=True)
class Sketches:
    """``values`` (n, buckets) float16, of unit length up to the sketch's error, zero for a zero
    gradient; ``norms`` (n,) of the gradients, exact. ``dots`` (n, q) exact products, if asked."""

    values: Tensor
    norms: Tensor
    dots: Tensor | None = None


class CountSketch:
    """Buckets and signs for the parameters of a model, the same wherever seed and names are."""

    def __init__(
        self, products: GradientProducts, *, buckets: int = BUCKETS, seed: int = 0
    ) -> None:
        if buckets < 1:
            raise MethodError(f"{buckets} buckets were given; expected at least 1")
        self.products = products
        self.buckets = buckets
        self.seed = seed
        #: The lower half of the numbers adds to a bucket, the upper half takes away from it.
        self._places = {
            name: self._draw(name, shape.numel())
            for name, shape in products.parameter_shapes().items()
        }

    def of_examples(self, x: Tensor, y: Tensor, directions: Directions | None = None) -> Sketches:
        """Sketches of the training examples x (n, ...), y (n,), one pass per batch.

        With ``directions`` the same pass gives the exact products as well.
        """
        queries = 0 if directions is None else len(directions)
        totals = torch.zeros(2 * self.buckets, len(x), dtype=torch.float32, device=x.device)
        squares = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        dots = torch.zeros(len(x), queries, dtype=torch.float64, device=x.device)

        def add(rows: slice, gradients: dict[str, Tensor]) -> None:
            for name, values in gradients.items():
                flat = values.flatten(1)
                # Examples side by side: each element of the gradient moves a row of them.
                self._add(totals[:, rows], name, flat)
                squares[rows] += torch.linalg.vector_norm(flat, dim=1).double().square()
                if directions is not None:
                    dots[rows] += flat @ directions.values[name].flatten(1).T

        self.products.visit_gradients(x, y, add)
        norms = squares.sqrt()
        return Sketches(
            self._finished(totals, norms),
            norms.to(x.dtype),
            None if directions is None else dots.to(x.dtype),
        )

    def of_directions(self, directions: Directions) -> Sketches:
        """Sketches (q, buckets) of queries, by the same buckets and signs."""
        some = next(iter(directions.values.values()))
        totals = torch.zeros(
            2 * self.buckets, len(directions), dtype=torch.float32, device=some.device
        )
        for name, values in directions.values.items():
            self._add(totals, name, values.flatten(1))
        norms = directions.norms()
        return Sketches(self._finished(totals, norms), norms.to(some.dtype))

    def _draw(self, name: str, size: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "count sketch", name))
        return torch.randint(0, 2 * self.buckets, (size,), generator=generator, dtype=torch.int32)

    def _add(self, totals: Tensor, name: str, rows: Tensor) -> None:
        places = self._places[name].to(rows.device)
        totals.index_add_(0, places, rows.T.to(totals.dtype))

    def _finished(self, totals: Tensor, norms: Tensor) -> Tensor:
        values = (totals[: self.buckets] - totals[self.buckets :]).T
        lengths = norms.masked_fill(norms == 0, 1.0)[:, None]
        return (values / lengths).to(torch.float16)


def estimated_cosines(train: Sketches, queries: Sketches) -> Tensor:
    """Estimates of grad-cos (n, q) in float32."""
    return train.values.float() @ queries.values.float().T


def estimated_dots(train: Sketches, queries: Sketches) -> Tensor:
    """Estimates of grad-dot (n, q) in float32."""
    lengths = train.norms.float()[:, None] * queries.norms.float()
    return estimated_cosines(train, queries) * lengths


def candidates(estimates: Tensor, count: int) -> Tensor:
    """For each query the rows of its ``count`` highest and ``count`` lowest estimates: (q, 2 count)
    or fewer, ascending and without repetition only if the training set is larger than that.

    Those are to be scored exactly; the rest of the training set is not touched.
    """
    columns = estimates.T
    count = min(count, columns.shape[1])
    if 2 * count >= columns.shape[1]:
        return torch.arange(columns.shape[1], device=estimates.device).expand(len(columns), -1)
    highest = columns.topk(count, dim=1).indices
    lowest = columns.topk(count, dim=1, largest=False).indices
    return torch.cat([highest, lowest], 1).sort(1).values
