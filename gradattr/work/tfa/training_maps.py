"""Maps of the training images of pairs, by one of the manifest's maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradattr.attribution.agreement import agreement
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.microbatch import halve_on_oom
from gradattr.attribution.passes import attribute
from gradattr.attribution.result import Attribution
from gradattr.data.preprocess import input_bounds
from gradattr.errors import MethodError
from gradattr.influence import (
    Directions,
    GradientProducts,
    Maps,
    agreement_maps,
    layer_maps,
    tfa_maps,
)
from gradattr.manifest.scores import AnyScore, score_id
from gradattr.manifest.training_maps import AnyMap, TfaMap, TwoStepMap
from gradattr.seeds import sample_seeds
from gradattr.work.context import RunContext
from gradattr.work.methods import normalization, over_channels, request_of
from gradattr.work.modules import micro_batch, prepare_model
from gradattr.work.tfa.loaded import Loaded
from gradattr.work.tfa.memory import within_memory
from gradattr.work.tfa.pairs import PairImages
from gradattr.work.tfa.query_set import query_images

#: Pairs on which 'mixed' precision is compared with float32.
AGREEMENT_PAIRS = 4


@dataclass(frozen=True)
class PairMaps:
    """Maps of p pairs, on the CPU, float32."""

    values: Tensor
    """(p, c, h, w), or (p, 1, h, w) of a layer."""
    statuses: list[str]
    """'ok', 'undefined' (a gradient is zero, so the score has no derivative) or 'non_finite'."""


def maps_of(
    context: RunContext,
    loaded: Loaded,
    pairs: PairImages,
    spec: AnyMap,
    *,
    mixed: bool | None = None,
) -> PairMaps:
    """The map of each pair by ``spec``, of the score that has chosen it. ``mixed``: derivatives of
    convolutions in bfloat16; None: as the manifest's engine says."""
    if mixed is None:
        mixed = context.manifest.engine.precision == "mixed"
    if isinstance(spec, TwoStepMap):
        values = _two_step(context, loaded, pairs, spec)
        undefined = torch.zeros(len(values), dtype=torch.bool)
    else:
        channels = 1 if spec.layer else context.shape[0]
        values = torch.zeros(len(pairs.rows), channels, *context.shape[1:])
        undefined = torch.zeros(len(pairs.rows), dtype=torch.bool)
        for source in _sources(context, loaded, pairs, spec):

            def mapped(source: _Source = source) -> Maps:
                return _tfa(context, loaded, pairs, spec, source, mixed)

            found = within_memory(loaded, pairs.x, pairs.y, mapped)
            values[source.pairs] = found.values.float().cpu()
            undefined[source.pairs] = found.undefined.cpu()
    finite = torch.isfinite(values).flatten(1).all(1)
    return PairMaps(
        values,
        [
            "non_finite" if not good else "undefined" if zero else "ok"
            for good, zero in zip(finite.tolist(), undefined.tolist(), strict=True)
        ],
    )


@dataclass(frozen=True)
class _Source:
    """What is differentiated for some of the pairs: sum of rate * score over (products,
    directions)."""

    score: str
    """'cos' or 'dot'."""
    terms: list[tuple[GradientProducts, Directions, float]]
    pairs: list[int]


def _sources(context: RunContext, loaded: Loaded, pairs: PairImages, spec: TfaMap) -> list[_Source]:
    queries, products = pairs.queries, loaded.products
    if spec.of != "score":
        kind = "cos" if spec.of == "grad_cos" else "dot"
        everything = list(range(len(pairs.rows)))
        return [_Source(kind, [(products, queries.plain, 1.0)], everything)]
    by_score: dict[str, list[AnyScore]] = {}
    for score in context.tfa_manifest.scores:
        # A random choice and RelatIF have no map of their own: they get that of grad-cos.
        own = {"grad_dot": "dot", "influence": score_id(score), "tracin": score_id(score)}
        by_score.setdefault(own.get(score.score, "cos"), []).append(score)
    found = []
    for name, scores in by_score.items():
        labels = [score_id(score) for score in scores]
        if name in ("cos", "dot"):
            terms = [(products, queries.plain, 1.0)]
        elif name in queries.checkpoints:
            terms = [
                (at, directions, rate)
                for (at, rate), directions in zip(
                    loaded.checkpoints[name], queries.checkpoints[name], strict=True
                )
            ]
        else:
            terms = [(products, queries.solved[name], 1.0)]
        source = _Source("cos" if name == "cos" else "dot", terms, pairs.having(labels))
        if source.pairs:
            found.append(source)
    return found


def precision_agreement(
    context: RunContext, loaded: Loaded, pairs: PairImages, spec: TfaMap, maps: PairMaps
) -> dict[str, float | int]:
    """How well the first maps agree with those in float32, for the record."""
    few = pairs.first(AGREEMENT_PAIRS)
    exact = maps_of(context, loaded, few, spec, mixed=False)
    found = agreement(exact.values, maps.values[: len(few.rows)])
    return {
        "maps": len(few.rows),
        "spearman_median": float(found.spearman.median()),
        "spearman_minimum": float(found.spearman.min()),
        "top_overlap_median": float(found.top_overlap.median()),
    }


def _tfa(
    context: RunContext,
    loaded: Loaded,
    pairs: PairImages,
    spec: TfaMap,
    source: _Source,
    mixed: bool,
) -> Maps:
    """Maps of the source's pairs; a pair that two scores have chosen is computed once."""
    places = [pairs.places[at] for at in source.pairs]
    once = sorted(set(places))
    seeds = _seeds(context, pairs, once)
    if spec.layer and spec.reading == "agreement":
        parts = [(_agreement(context, loaded, pairs, spec, once), 1.0)]
    else:
        parts = [
            (_one(context, pairs, spec, source.score, at, directions, once, seeds, mixed), rate)
            for at, directions, rate in source.terms
        ]
    order = torch.tensor([once.index(place) for place in places], dtype=torch.int64)
    values = torch.stack([part.values * rate for part, rate in parts]).sum(0)
    undefined = torch.stack([part.undefined for part, _ in parts]).any(0)
    scores = torch.stack([part.scores * rate for part, rate in parts]).sum(0)
    order = order.to(values.device)
    return Maps(values[order], scores[order], undefined.to(values.device)[order])


def _one(
    context: RunContext,
    pairs: PairImages,
    spec: TfaMap,
    score: str,
    products: GradientProducts,
    directions: Directions,
    places: Sequence[tuple[int, int]],
    seeds: list[int],
    mixed: bool,
) -> Maps:
    black, white = input_bounds(context.preprocess, context.shape[0])
    sigma = (spec.sigma * (white - black)).view(-1, 1, 1).to(pairs.x)
    copies = spec.samples if spec.sigma > 0 else 1
    if spec.layer:
        return layer_maps(
            products,
            pairs.x,
            pairs.y,
            directions,
            places,
            spec.layer,
            score="cos" if score == "cos" else "dot",
            copies=copies,
            sigma=sigma,
            seeds=seeds,
            mixed=mixed,
        )
    return tfa_maps(
        products,
        pairs.x,
        pairs.y,
        directions,
        places,
        score="cos" if score == "cos" else "dot",
        copies=copies,
        sigma=sigma,
        seeds=seeds,
        times_input=spec.times_input,
        mixed=mixed,
    )


def _agreement(
    context: RunContext,
    loaded: Loaded,
    pairs: PairImages,
    spec: TfaMap,
    places: Sequence[tuple[int, int]],
) -> Maps:
    assert spec.layer is not None
    query_x, query_y = query_images(context, pairs.queries.rows)
    return agreement_maps(
        loaded.products,
        pairs.x,
        pairs.y,
        query_x.to(pairs.x.device),
        query_y.to(pairs.x.device),
        places,
        spec.layer,
        target=context.tfa_manifest.queries.target,
    )


def _seeds(context: RunContext, pairs: PairImages, places: Sequence[tuple[int, int]]) -> list[int]:
    """One per pair, by its training image: the pairs of an image share its noisy copies."""
    ids = [pairs.images.sample_ids[image] for image, _ in places]
    return sample_seeds(context.manifest.seed, "tfa copies", ids)


def _two_step(context: RunContext, loaded: Loaded, pairs: PairImages, spec: TwoStepMap) -> Tensor:
    evaluator, batch_size = _evaluator(context, loaded)
    request = request_of(spec.method, spec.target, no_pool, no_model)
    seeds = sample_seeds(context.manifest.seed, "sample", pairs.images.sample_ids)

    def at(size: int) -> list[Attribution]:
        return attribute(
            evaluator,
            pairs.x,
            [request],
            seeds=seeds,
            labels=pairs.y,
            normalization=normalization(context.preprocess, context.shape[0]),
            batch_size=size,
        )

    (found,), used = halve_on_oom(at, batch_size)
    loaded.remember(("evaluator",), (evaluator, used))
    maps = over_channels(found.maps.detach().float().cpu(), pairs.x.shape[1])
    return maps[pairs.of_pairs]


def _evaluator(context: RunContext, loaded: Loaded) -> tuple[Evaluator, int]:
    key = ("evaluator",)
    if key not in loaded.kept:
        # A copy: tuning folds and freezes.
        module = copy.deepcopy(loaded.module)
        spec = context.tfa_manifest.model
        evaluator, _ = prepare_model(context, module, spec, loaded.device)
        loaded.remember(key, (evaluator, micro_batch(context, evaluator, loaded.device)))
    found: tuple[Evaluator, int] = loaded.kept[key]
    return found


def no_pool(label: str) -> Tensor:
    raise MethodError(f"method '{label}' needs a pool of images; a two-step map has none")


def no_model(label: str) -> Evaluator:
    raise MethodError(f"method '{label}' needs a model of its own; a two-step map has none")
