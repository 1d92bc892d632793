"""How much each training example helps or harms each query: positive = helpful.

With g_i the gradient of the loss at training example i and u_t that at query t, over the chosen
parameters:

    grad-dot   <g_i, u_t>: a gradient step on i lowers the loss at t by about the step size times it
    grad-cos   <g_i, u_t> / (||g_i|| ||u_t||)
    TracIn     sum over checkpoints c of  rate_c <g_i, u_t> at c
    influence  u_t^T (C + λ I)^-1 g_i, with the curvature C (Hessian or Gauss-Newton), damping λ;
               the literature's sign is the opposite: there it is the change of the loss at t
    RelatIF    influence / ||(C + λ I)^-1 g_i||

For large λ influence ranks as grad-dot does, and RelatIF ranks the examples of a query as grad-cos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradattr.errors import MethodError
from gradattr.influence.curvature import Curvature
from gradattr.influence.directions import Directions
from gradattr.influence.ekfac import Ekfac
from gradattr.influence.hashing import MASK, uniform
from gradattr.influence.products import GradientProducts


@dataclass(frozen=True)
class Scores:
    """``values`` (n, q), train example x query. ``undefined`` (n, q): the score is a quotient with
    a zero gradient in it; its value is 0. ``report`` is plain data on how the scores came about."""

    values: Tensor
    undefined: Tensor
    report: dict[str, Any] = field(default_factory=dict)


def grad_dot(products: GradientProducts, x: Tensor, y: Tensor, queries: Directions) -> Scores:
    """<g_i, u_t> for training examples x (n, ...), y (n,)."""
    values = products.dots(x, y, queries)
    return Scores(values, torch.zeros_like(values, dtype=torch.bool))


def grad_cos(products: GradientProducts, x: Tensor, y: Tensor, queries: Directions) -> Scores:
    """<g_i, u_t> / (||g_i|| ||u_t||) for training examples x (n, ...), y (n,)."""
    dots, norms = products.dots_and_norms(x, y, queries)
    return cosines(dots, norms, queries.norms())


def cosines(dots: Tensor, norms: Tensor, query_norms: Tensor) -> Scores:
    """Cosines from products (n, q) and norms (n,), (q,): 0 and a flag where a norm is 0. NaN where
    a norm is none, so that it is seen."""
    lengths = norms.double()[:, None] * query_norms.double()
    undefined = (norms == 0)[:, None] | (query_norms == 0)
    values = dots.double() / lengths.masked_fill(undefined, 1.0)
    return Scores(values.masked_fill(undefined, 0.0).to(dots.dtype), undefined)


def tracin(
    checkpoints: Sequence[tuple[GradientProducts, float]],
    x: Tensor,
    y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
    *,
    target: str = "loss_true",
) -> Scores:
    """sum_c rate_c <g_i, u_t> with both gradients at checkpoint c: (model there, learning rate).

    Raises MethodError without checkpoints.
    """
    if not checkpoints:
        raise MethodError("TracIn needs at least one checkpoint with its learning rate")
    total = torch.zeros(len(x), len(query_x), dtype=x.dtype, device=x.device)
    for products, rate in checkpoints:
        total += rate * products.dots(x, y, products.directions(query_x, query_y, target))
    return Scores(total, torch.zeros_like(total, dtype=torch.bool))


def influence(
    products: GradientProducts,
    x: Tensor,
    y: Tensor,
    queries: Directions,
    curvature: Curvature | Ekfac,
    *,
    damping: float,
    tolerance: float = 1e-6,
    max_steps: int = 200,
) -> Scores:
    """u_t^T (C + λ I)^-1 g_i: one inverse per query, then products as for grad-dot.

    Divided by the number of training examples it is, to first order, how much the query's loss
    rises when example i is left out. With an ``Ekfac`` the inverse is that of an approximation, and
    ``tolerance`` and ``max_steps``, which are about conjugate gradients, say nothing. ``report``:
    matrix and damping; steps and largest residual, or of EK-FAC whose labels and how many examples.
    """
    if isinstance(curvature, Ekfac):
        values = products.dots(x, y, curvature.solve(queries, damping))
        flags = torch.zeros_like(values, dtype=torch.bool)
        return Scores(values, flags, _fitted_report(curvature, damping))
    solution = curvature.solve(queries, damping, tolerance=tolerance, max_steps=max_steps)
    values = products.dots(x, y, solution.directions)
    report = _report(curvature, damping, solution.steps, float(solution.residuals.max()))
    return Scores(values, torch.zeros_like(values, dtype=torch.bool), report)


def relatif(
    products: GradientProducts,
    x: Tensor,
    y: Tensor,
    queries: Directions,
    curvature: Curvature | Ekfac,
    *,
    damping: float,
    tolerance: float = 1e-6,
    max_steps: int = 200,
    block: int = 8,
) -> Scores:
    """influence / ||(C + λ I)^-1 g_i||: the most influence that a small change of the model buys.

    With an ``Ekfac`` one pass over the training examples. With a ``Curvature`` an inverse for every
    *training* example, ``block`` at a time: for small models, or for candidates that a cheaper
    score has chosen.
    """
    if isinstance(curvature, Ekfac):
        solved = curvature.solve(queries, damping)
        dots, norms = curvature.dots_and_inverse_norms(x, y, solved, damping)
        ones = torch.ones(len(solved), dtype=torch.float64, device=x.device)
        found = cosines(dots, norms, ones)
        return Scores(found.values, found.undefined, _fitted_report(curvature, damping))
    parts, steps, worst = [], 0, 0.0
    right = queries.flat().double()
    for first in range(0, len(x), block):
        rows = slice(first, first + block)
        own = products.directions(x[rows], y[rows])
        solution = curvature.solve(own, damping, tolerance=tolerance, max_steps=max_steps)
        flat = solution.directions.flat().double()
        ones = torch.ones(len(right), dtype=torch.float64, device=x.device)
        # Not normalised by the query: each query ranks its examples the same either way.
        parts.append(cosines(flat @ right.T, flat.norm(dim=1), ones))
        steps, worst = max(steps, solution.steps), max(worst, float(solution.residuals.max()))
    return Scores(
        torch.cat([part.values for part in parts]).to(x.dtype),
        torch.cat([part.undefined for part in parts]),
        _report(curvature, damping, steps, worst),
    )


def random_scores(train_seeds: Sequence[int], query_seeds: Sequence[int]) -> Scores:
    """The control: U[-1, 1), a function of the two seeds (n,), (q,) of a pair alone."""
    train = torch.tensor([seed & MASK for seed in train_seeds], dtype=torch.int64)
    query = torch.tensor([seed & MASK for seed in query_seeds], dtype=torch.int64)
    values = 2 * uniform(train[:, None], query[None]) - 1
    return Scores(values, torch.zeros_like(values, dtype=torch.bool))


def _fitted_report(curvature: Ekfac, damping: float) -> dict[str, Any]:
    return {
        "matrix": "ekfac",
        "fisher": curvature.fisher,
        "examples": curvature.examples,
        "damping": damping,
    }


def _report(curvature: Curvature, damping: float, steps: int, residual: float) -> dict[str, Any]:
    return {
        "matrix": curvature.matrix,
        "damping": damping,
        "steps": steps,
        "largest_residual": residual,
    }
