"""What the residual stream of x does to the run on x', site by site and position by position.

Activation patching runs x', puts the activation of the run on x into one place, and looks at the
score: exact, one forward pass per place. Attribution patching estimates all of it from one
backward pass on x'::

    activation patching   F(run on x' with a(x) at (site, position)) - F(x')
    attribution patching  (a(x) - a(x'))^T grad_a F at x'
    integrated            (a(x) - a(x'))^T sum_k w_k grad_a F at x' + alpha_k (x - x')
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradattr.attribution.quadrature import Rule, quadrature
from gradattr.patching.language_model import LanguageModel
from gradattr.patching.prompts import PromptBatch
from gradattr.patching.scores import ScoreName, patching_score

#: The gradient at x' alone.
AT_THE_START: Rule = quadrature("left", 1)


def residuals(model: LanguageModel, x: Tensor, last: Tensor, sites: Sequence[int]) -> Tensor:
    """(n, sites, L, d) the residual stream in the run on x (n, L, d), without a graph."""
    found = {0: x}

    def see(site: int, h: Tensor) -> Tensor:
        found[site] = h.detach()
        return h

    with torch.no_grad(), model.watched(see, sites):
        model.logits(x, last)
    return torch.stack([found[site] for site in sites], dim=1)


def activation_patching(
    model: LanguageModel,
    batch: PromptBatch,
    start: Tensor,
    *,
    score: ScoreName = "prob",
    sites: Sequence[int] | None = None,
    batch_size: int = 64,
) -> Tensor:
    """(n, sites, L) exact effects; 0 at padding. ``start``: x' (n, L, d).

    ``sites``: ascending, from 0, the embedding; default: all. ``batch_size``: forward passes at
    once. Raises ValueError for a site that is not there.
    """
    sites = checked_sites(model, sites)
    places = torch.nonzero(batch.real)
    # Prompt by prompt, so that few lengths meet in one batch.
    rows = places.repeat_interleave(len(sites), 0)
    which = torch.arange(len(sites), device=batch.x.device).repeat(len(places))
    clean = residuals(model, batch.x, batch.last, sites)
    before = _scored(model, start, batch, score)
    effects = torch.zeros(len(batch), len(sites), batch.x.shape[1]).to(before)
    for part in torch.split(torch.arange(len(rows), device=batch.x.device), batch_size):
        owner, position, site = rows[part, 0], rows[part, 1], which[part]
        longest = int(batch.lengths[owner].max())
        patched = _patched(
            model,
            start[owner, :longest],
            batch.last[owner],
            position,
            [(number, site == place) for place, number in enumerate(sites)],
            clean[owner, site, position],
        )
        foil = None if batch.foil is None else batch.foil[owner]
        after = patching_score(score)(patched, batch.answer[owner], foil)
        effects[owner, site, position] = after - before[owner]
    return effects


def _patched(
    model: LanguageModel,
    x: Tensor,
    last: Tensor,
    position: Tensor,
    rows_of: Sequence[tuple[int, Tensor]],
    values: Tensor,
) -> Tensor:
    """(m, V) logits of m runs on x (m, L, d); in each, ``values`` (m, d) stands at ``position``
    (m,) of one site. ``rows_of``: site -> (m,) bool, the runs that are patched there."""
    chosen = {site: torch.nonzero(rows)[:, 0] for site, rows in rows_of if bool(rows.any())}

    def see(site: int, h: Tensor) -> Tensor:
        rows = chosen[site]
        h = h.clone()
        h[rows, position[rows]] = values[rows].to(h.dtype)
        return h

    if 0 in chosen:
        x = see(0, x)
    with torch.no_grad(), model.watched(see, list(chosen)):
        return model.logits(x, last)


def attribution_patching(
    model: LanguageModel,
    batch: PromptBatch,
    start: Tensor,
    *,
    score: ScoreName = "prob",
    sites: Sequence[int] | None = None,
    batch_size: int = 64,
    rule: Rule = AT_THE_START,
) -> Tensor:
    """(n, sites, L) estimated effects; 0 at padding. ``start``: x' (n, L, d).

    ``rule``: where on the straight line from x' (0) to x (1) gradients are taken, with what
    weights; by default at x' alone. With more points the estimate at the embedding is that of
    integrated gradients, and complete. ``batch_size``: prompts at once.
    """
    sites = checked_sites(model, sites)
    effects = torch.zeros(len(batch), len(sites), batch.x.shape[1]).to(start)
    for first in range(0, len(batch), batch_size):
        part = batch.part(first, first + batch_size)
        own, longest = start[first : first + batch_size, : part.x.shape[1]], part.x.shape[1]
        change = residuals(model, part.x, part.last, sites)
        change -= residuals(model, own, part.last, sites)
        slopes = torch.zeros_like(change)
        for alpha, weight in zip(rule.alphas, rule.weights, strict=True):
            point = own if alpha == 0 else own + alpha * (part.x - own)
            slopes += weight * _slopes(model, point, part, score, sites)
        effects[first : first + batch_size, :, :longest] = (change * slopes).sum(3)
    return effects * batch.real[:, None]


def _slopes(
    model: LanguageModel, x: Tensor, batch: PromptBatch, score: ScoreName, sites: Sequence[int]
) -> Tensor:
    """(n, sites, L, d) the gradient of the score in the residual stream at x (n, L, d)."""
    leaf = x.detach().clone().requires_grad_(True)
    found = {0: leaf}

    def see(site: int, h: Tensor) -> Tensor:
        # Another node than the block's own output, which a model may keep a view of.
        found[site] = h.clone()
        return found[site]

    with torch.enable_grad(), model.watched(see, sites):
        logits = model.logits(leaf, batch.last)
        values = patching_score(score)(logits, batch.answer, batch.foil)
        slopes = torch.autograd.grad(values.sum(), [found[site] for site in sites])
    return torch.stack([slope.detach() for slope in slopes], dim=1)


def _scored(model: LanguageModel, x: Tensor, batch: PromptBatch, score: ScoreName) -> Tensor:
    """(n,) the score at x (n, L, d)."""
    with torch.no_grad():
        logits = model.logits(x, batch.last)
    return patching_score(score)(logits, batch.answer, batch.foil)


def checked_sites(model: LanguageModel, sites: Sequence[int] | None) -> tuple[int, ...]:
    """The sites, all by default. ValueError: one is not there, or out of order."""
    chosen = tuple(range(model.sites) if sites is None else sites)
    if not chosen or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"sites: {list(chosen)} given, expected some in ascending order")
    if chosen[0] < 0 or chosen[-1] >= model.sites:
        raise ValueError(
            f"sites: {list(chosen)} given, but the model has sites 0 (embedding) to "
            f"{model.sites - 1} (output of its last block)"
        )
    return chosen
