"""The engine: many methods over many samples, with every pass made once and shared.

Samples are worked on in blocks of ``batch_size``. Within a block a pass goes step by step, so
``batch_size`` points are evaluated at a time; a smaller block takes several steps at a time.
Gradients are added up as they come: memory holds one micro-batch and a map per statistic,
whatever the number of steps. A sample's sums run over its steps in one order, so batch size,
sharding and the other methods of the call do not change what is added to what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.block import Block, Known, Shared
from gradattr.attribution.evaluated_steps import OneStep, Scalar, only_step, steps_of
from gradattr.attribution.evaluator import Choose, Evaluator
from gradattr.attribution.noise import standard_normal
from gradattr.attribution.paths.path_facts import PathFacts, log_confidence, path_facts
from gradattr.attribution.paths.unlearning import Unlearned
from gradattr.attribution.post_steps import apply_steps
from gradattr.attribution.procedure import Made, Procedure
from gradattr.attribution.reductions import Reduction
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.result import Attribution, Status, concatenate
from gradattr.attribution.sampling import AtInput, NoisyCopies, Pass, noisy_copy
from gradattr.attribution.sources import OtherModel, RandomScores, Source
from gradattr.attribution.target import TargetName, logit, resolve_target


def attribute(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    labels: Tensor | None = None,
    normalization: Normalization | None = None,
    batch_size: int = 64,
) -> list[Attribution]:
    """Attribute x (n, ...) by every method requested; one ``Attribution`` each, in order.

    ``seeds`` has one number per sample and decides its noise and random baselines; ``labels`` (n,)
    are needed by targets '*_true'; ``normalization`` says what black and white are. At most
    ``batch_size`` points are evaluated at a time.

    Requests with equal sampling and target share their forward and backward passes. Those at the
    input share one forward pass with the prediction, whatever their targets.

    Raises ValueError for arguments that do not fit together, unknown targets, and a model that
    does not return (n, classes).
    """
    _check(x, requests, seeds, labels, batch_size)
    x = x.detach()
    shared = Shared()
    parts: list[list[Attribution]] = []
    for first in range(0, len(x), batch_size):
        rows = slice(first, first + batch_size)
        block = Block(
            evaluator,
            x[rows],
            seeds[rows],
            normalization or Normalization(),
            batch_size,
            shared,
        )
        parts.append(_attribute_block(block, requests, None if labels is None else labels[rows]))
    return [concatenate([part[i] for part in parts]) for i in range(len(requests))]


def _attribute_block(
    block: Block, requests: Sequence[MethodRequest], labels: Tensor | None
) -> list[Attribution]:
    logits, scalars = _at_input(block, requests, labels)
    block.logits = logits
    groups: dict[tuple[Source, TargetName, NoisyCopies | None], list[int]] = {}
    for number, request in enumerate(requests):
        key = (request.source, request.target, request.smooth)
        groups.setdefault(key, []).append(number)
    results: dict[int, Attribution] = {}
    for (source, target, smooth), numbers in groups.items():
        reductions = [requests[number].reduction for number in numbers]
        if smooth is None:
            made = _make(block, source, scalars[target], reductions)
        else:
            made = _smoothed(block, source, scalars[target], reductions, smooth)
        for number, one in zip(numbers, made, strict=True):
            results[number] = _attribution(requests[number], one, scalars[target], logits, block.x)
    return [results[number] for number in range(len(requests))]


def _at_input(
    block: Block, requests: Sequence[MethodRequest], labels: Tensor | None
) -> tuple[Tensor, dict[TargetName, Scalar]]:
    """Logits (n, classes), and every target fixed; one forward pass in all."""

    def chooser(target: TargetName) -> Choose:
        return lambda logits: resolve_target(target, _classes(logits), labels)

    at_input = dict.fromkeys(
        r.target for r in requests if isinstance(r.source, AtInput) and r.smooth is None
    )
    logits, explained = block.evaluator.logits_and_gradients(
        block.h, [chooser(target) for target in at_input]
    )
    grads = {target: one.grads for target, one in zip(at_input, explained, strict=True)}
    scalars = {}
    for target in dict.fromkeys(r.target for r in requests):
        index, objective = resolve_target(target, _classes(logits), labels)
        scalars[target] = Scalar(index, objective, objective(logits, index), grads.get(target))
    return logits, scalars


def _make(
    block: Block, source: Source, scalar: Scalar, reductions: Sequence[Reduction]
) -> list[Made]:
    """The maps of requests that share a source and a target."""
    if isinstance(source, RandomScores):
        return [Made(standard_normal(block.x, block.seeds, "random")) for _ in reductions]
    if isinstance(source, OtherModel):
        other = source.evaluator
        _, grads, _ = other.gradients(other.stem(block.x), scalar.index, logit)
        return _reduced(other, block.x, [only_step(other, grads, block.x)], None, reductions)
    if isinstance(source, AtInput):
        step = only_step(block.evaluator, scalar.grads, block.x)
        made = _reduced(block.evaluator, block.x, [step], None, reductions)
        if Reduction.TIMES_INPUT not in reductions:
            return made
        zero_score = scalar.objective(block.zero_logits(), scalar.index)
        return _against(zero_score, Reduction.TIMES_INPUT, made, reductions)
    if isinstance(source, Procedure):
        return [source.run(block, scalar.index, scalar.objective)] * len(reductions)
    opened = source.open(block)
    along: list[Tensor] = []
    steps = steps_of(opened, block, scalar, along)
    made = _reduced(block.evaluator, block.x, steps, opened.displacement, reductions)
    made = [one._replace(facts=_facts(opened, block, scalar, along)) for one in made]
    if isinstance(getattr(source, "baseline", None), Unlearned) and opened.displacement is not None:
        nowhere = (opened.displacement == 0).flatten(1).all(1)
        made = [one._replace(degenerate=nowhere) for one in made]
    if Reduction.TIMES_DIFFERENCE not in reductions:
        return made
    baseline_score = opened.baseline_score(scalar.index, scalar.objective)
    return _against(baseline_score, Reduction.TIMES_DIFFERENCE, made, reductions)


def _smoothed(
    block: Block,
    source: Source,
    scalar: Scalar,
    reductions: Sequence[Reduction],
    copies: NoisyCopies,
) -> list[Made]:
    """The mean of the maps of noisy copies, which are explained for the samples' own classes.

    What is random in the method itself is drawn once, the same for every copy. A smoothed map is
    complete against nothing in particular.
    """
    n = len(block.x)
    at_once = max(1, block.batch_size // n)
    totals: list[Tensor | None] = [None] * len(reductions)
    stuck = [torch.ones(n, dtype=torch.bool, device=block.x.device) for _ in reductions]
    for first in range(0, copies.samples, at_once):
        count = min(at_once, copies.samples - first)
        steps = range(first, first + count)
        noisy = replace(
            block,
            x=torch.cat([noisy_copy(block.x, block.seeds, copies.sigma, step) for step in steps]),
            seeds=list(block.seeds) * count,
            logits=None,
            known=Known(),
        )
        index = scalar.index.repeat(count)
        grads = None
        if isinstance(source, AtInput):
            _, grads, _ = block.evaluator.gradients(noisy.h, index, scalar.objective)
        there = Scalar(index, scalar.objective, scalar.score.repeat(count), grads)
        for place, made in enumerate(_make(noisy, source, there, reductions)):
            for maps in made.maps.chunk(count):
                part = maps / copies.samples
                total = totals[place]
                totals[place] = part if total is None else total.add_(part)
            if made.degenerate is None:
                stuck[place][:] = False
            else:
                stuck[place] &= torch.stack(made.degenerate.chunk(count)).all(0)
    return [
        Made(total, degenerate=degenerate)
        for total, degenerate in zip(totals, stuck, strict=True)
        if total is not None
    ]


def _against(
    score: Tensor | None, kind: Reduction, made: list[Made], reductions: Sequence[Reduction]
) -> list[Made]:
    """Note the score that maps of this kind are complete against."""
    return [
        one._replace(baseline_score=score) if reduction is kind else one
        for one, reduction in zip(made, reductions, strict=True)
    ]


def _facts(opened: Pass, block: Block, scalar: Scalar, along: Sequence[Tensor]) -> PathFacts | None:
    if opened.alphas is None or opened.start_logits is None:
        return None
    start = log_confidence(opened.start_logits, scalar.index)
    return path_facts(start, along, log_confidence(block.own_logits, scalar.index), opened.alphas)


def _reduced(
    evaluator: Evaluator,
    x: Tensor,
    steps: Iterable[OneStep],
    displacement: Tensor | None,
    reductions: Sequence[Reduction],
) -> list[Made]:
    """One map per reduction, from statistics that the reductions share."""
    kinds = [r.statistic(one_displacement=displacement is not None) for r in reductions]
    statistics = {kind: kind() for kind in kinds}
    for step in steps:
        for statistic in statistics.values():
            statistic.add(step)
    finished = {
        kind: statistic.finish(lambda grad: evaluator.pullback(grad, x.shape))
        for kind, statistic in statistics.items()
    }
    return [
        Made(reduction.map(finished[kind], x, displacement))
        for reduction, kind in zip(reductions, kinds, strict=True)
    ]


def _attribution(
    request: MethodRequest, made: Made, scalar: Scalar, logits: Tensor, x: Tensor
) -> Attribution:
    maps = apply_steps(made.maps, request.post).contiguous()
    gap = None
    if made.baseline_score is not None:
        # The law is the method's own: of its map before any further step.
        total = made.maps.flatten(1).sum(1, dtype=torch.float64)
        gap = (total - (scalar.score - made.baseline_score)).to(scalar.score.dtype)
    finite = torch.isfinite(maps.flatten(1)).all(1) & torch.isfinite(scalar.score)
    nowhere = torch.zeros_like(finite) if made.degenerate is None else made.degenerate
    status: tuple[Status, ...] = tuple(
        "non_finite" if not ok else "degenerate" if stuck else "ok"
        for ok, stuck in zip(finite.tolist(), nowhere.tolist(), strict=True)
    )
    return Attribution(
        method=request.id,
        target=request.target,
        maps=maps,
        index=scalar.index,
        score=scalar.score,
        logits=logits,
        baseline_score=made.baseline_score,
        completeness_gap=gap,
        baseline_confidence=None if made.facts is None else made.facts.baseline_confidence,
        path_spearman=None if made.facts is None else made.facts.spearman,
        evaluations=request.evaluations(logits.shape[1], tuple(x.shape[1:])),
        status=status,
    )


def _classes(logits: Tensor) -> Tensor:
    if logits.dim() != 2:
        raise ValueError(
            f"the model returns {tuple(logits.shape)}: expected logits (examples, classes)"
        )
    return logits


def _check(
    x: Tensor,
    requests: Sequence[MethodRequest],
    seeds: Sequence[int],
    labels: Tensor | None,
    batch_size: int,
) -> None:
    if x.dim() < 2 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(
            f"x: {tuple(x.shape)} of {x.dtype} given; expected floating point (n, ...) with n >= 1"
        )
    if not requests:
        raise ValueError("requests: none given, at least one method expected")
    if len(seeds) != len(x):
        raise ValueError(f"seeds: {len(seeds)} given for {len(x)} samples; one each expected")
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"labels: {tuple(labels.shape)} given, expected ({len(x)},)")
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} given, at least 1 expected")
