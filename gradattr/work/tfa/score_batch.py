"""All scores of a batch of training examples for a group of queries, from as few passes as can
be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradattr.data.types import Batch
from gradattr.influence import CountSketch, Directions, Sketches, random_scores, relatif
from gradattr.influence.scores import cosines
from gradattr.manifest.scores import AnyScore, InfluenceScore, RandomScore, score_id
from gradattr.manifest.tfa import Index
from gradattr.seeds import sample_seeds
from gradattr.work.context import RunContext
from gradattr.work.tfa.curvature import load_curvature, load_ekfac
from gradattr.work.tfa.loaded import Loaded
from gradattr.work.tfa.memory import within_memory
from gradattr.work.tfa.query_directions import QueryDirections


@dataclass(frozen=True)
class Scored:
    """What was found of n training examples."""

    values: dict[str, np.ndarray]
    """Score id -> (n, q) float32."""
    undefined: int
    """Cosines with a zero gradient in them: their value is 0."""
    sketches: Sketches | None = None


def score_batch(
    context: RunContext,
    loaded: Loaded,
    queries: QueryDirections | None,
    batch: Batch,
    *,
    sketched: bool = False,
) -> Scored:
    """The scores of the manifest (none without ``queries``), and sketches if asked."""
    x, y = batch.x.to(loaded.device, non_blocking=True), batch.labels.to(loaded.device)
    return within_memory(
        loaded, x, y, lambda: _score(context, loaded, queries, batch, x, y, sketched)
    )


def _score(
    context: RunContext,
    loaded: Loaded,
    queries: QueryDirections | None,
    batch: Batch,
    x: Tensor,
    y: Tensor,
    sketched: bool,
) -> Scored:
    manifest = context.tfa_manifest
    sketches = None
    if sketched:
        assert manifest.index is not None
        plain = None if queries is None else queries.plain
        sketches = sketcher(loaded, manifest.index).of_examples(x, y, plain)
    values: dict[str, Tensor] = {}
    undefined = 0
    if queries is not None and len(batch):
        values, undefined = _products(context, loaded, queries, x, y, sketches)
        for score in manifest.scores:
            values[score_id(score)] = _single(context, loaded, queries, score, batch, x, y, values)
    return Scored(
        {
            score_id(score): values[score_id(score)].float().cpu().numpy()
            for score in manifest.scores
            if score_id(score) in values
        },
        undefined,
        sketches,
    )


def sketcher(loaded: Loaded, index: Index) -> CountSketch:
    """The sketch of the index; its buckets are drawn once in a process."""
    key = (f"sketch {index.buckets} {index.seed}",)
    if key not in loaded.kept:
        made = CountSketch(loaded.products, buckets=index.buckets, seed=index.seed)
        loaded.remember(key, made)
    found: CountSketch = loaded.kept[key]
    return found


def _products(
    context: RunContext,
    loaded: Loaded,
    queries: QueryDirections,
    x: Tensor,
    y: Tensor,
    sketches: Sketches | None,
) -> tuple[dict[str, Tensor], int]:
    """The scores that are products at the model itself: one pass serves all of them."""
    scores = context.tfa_manifest.scores
    names = {score.score: score_id(score) for score in scores}
    sets = dict(queries.solved)
    dots: dict[str, Tensor] = {}
    norms = None
    if {"grad_cos", "grad_dot"} & set(names):
        if sketches is not None and sketches.dots is not None:
            dots[""], norms = sketches.dots, sketches.norms
        else:
            sets = {"": queries.plain, **sets}
    if sets:
        # Factors of query gradients make products cheaper; joined directions have none.
        alone = len(sets) == 1
        together = next(iter(sets.values())) if alone else Directions.joined([*sets.values()])
        products, norms_now = loaded.products.dots_and_norms(x, y, together)
        norms = norms_now if norms is None else norms
        dots |= dict(zip(sets, torch.split(products, len(queries), dim=1), strict=True))
    values = {label: found for label, found in dots.items() if label}
    undefined = 0
    for score in scores:
        if score.score == "grad_dot":
            values[score_id(score)] = dots[""]
        if score.score == "grad_cos":
            assert norms is not None
            found = cosines(dots[""], norms, queries.plain.norms())
            values[score_id(score)] = found.values
            undefined = int(found.undefined.sum())
    return values, undefined


def _single(
    context: RunContext,
    loaded: Loaded,
    queries: QueryDirections,
    score: AnyScore,
    batch: Batch,
    x: Tensor,
    y: Tensor,
    values: dict[str, Tensor],
) -> Tensor:
    """One score, from the products where they are there, or by passes of its own."""
    label = score_id(score)
    if score.score == "tracin":
        total = torch.zeros(len(x), len(queries), dtype=torch.float64, device=x.device)
        for (products, rate), directions in zip(
            loaded.checkpoints[label], queries.checkpoints[label], strict=True
        ):
            total += rate * products.dots(x, y, directions).double()
        return total
    if isinstance(score, RandomScore):
        return random_scores(
            sample_seeds(score.seed, "random tda: train", batch.sample_ids),
            sample_seeds(score.seed, "random tda: query", [r["sample_id"] for r in queries.rows]),
        ).values
    if isinstance(score, InfluenceScore) and score.score == "relatif":
        if score.inverse == "ekfac":
            ekfac = load_ekfac(context, loaded, score)
            norms = ekfac.inverse_norms(x, y, score.damping)
            return cosines(values[label], norms, torch.ones(len(queries), device=x.device)).values
        curvature = load_curvature(context, loaded, score)
        return relatif(
            loaded.products,
            x,
            y,
            queries.plain,
            curvature,
            damping=score.damping,
            tolerance=score.tolerance,
            max_steps=score.max_steps,
        ).values
    return values[label]
