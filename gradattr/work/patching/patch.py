"""What is found of some prompts of about one length: answers, baselines, effects, agreement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradattr.attribution.microbatch import halve_on_oom
from gradattr.attribution.quadrature import quadrature
from gradattr.manifest.patching import EXACT, PatchingManifest
from gradattr.manifest.starts import AnyStart, CorruptedStart, start_id
from gradattr.patching import (
    Faithfulness,
    PromptBatch,
    activation_patching,
    attribution_patching,
    faithfulness,
    patching_score,
)
from gradattr.seeds import sample_seeds
from gradattr.work.patching.loaded import Loaded, start_of
from gradattr.work.patching.tokens import Tokens


@dataclass
class AtStart:
    """A prompt and one baseline."""

    status: str = "ok"
    error: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    """By column of 'patching_baselines'."""
    effects: dict[str, Tensor] = field(default_factory=dict)
    """Method -> (sites, length), on the CPU."""
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    """Estimating method -> measure -> number."""


@dataclass
class Patched:
    """A prompt."""

    answer: int
    answer_prob: float
    predicted: int
    predicted_prob: float
    finite: bool
    starts: dict[str, AtStart] = field(default_factory=dict)


def patch_prompts(loaded: Loaded, manifest: PatchingManifest, some: list[Tokens]) -> list[Patched]:
    """The answers to some good prompts, and the effects from every baseline."""
    count = len(some)
    batch = PromptBatch.of(loaded.model, [one.ids for one in some], [0] * count, [0] * count)
    logits = _in_parts(loaded, batch, False, lambda part: loaded.model.logits(part.x, part.last))
    log_p = torch.log_softmax(logits.double(), 1)
    best, predicted = log_p.max(1)
    answer = [
        own if one.answer is None else one.answer
        for one, own in zip(some, predicted.tolist(), strict=True)
    ]
    foils = [one.foil or 0 for one in some]
    batch = replace(
        batch,
        answer=torch.tensor(answer, device=loaded.device),
        foil=torch.tensor(foils, device=loaded.device),
    )
    chosen = log_p.gather(1, batch.answer[:, None])[:, 0]
    finite = torch.isfinite(log_p.sum(1)).tolist()
    columns = (answer, chosen.exp().tolist(), predicted.tolist(), best.exp().tolist(), finite)
    found = [Patched(*values) for values in zip(*columns, strict=True)]
    score = patching_score(manifest.score)(logits, batch.answer, batch.foil)
    for spec in manifest.baselines:
        _from_start(loaded, manifest, spec, some, batch, found, score, chosen.exp())
    return found


def _from_start(
    loaded: Loaded,
    manifest: PatchingManifest,
    spec: AnyStart,
    some: list[Tokens],
    batch: PromptBatch,
    found: list[Patched],
    score: Tensor,
    confidence: Tensor,
) -> None:
    """Add one baseline to what is found of each prompt."""
    name = start_id(spec)
    places = list(range(len(some)))
    if isinstance(spec, CorruptedStart):
        places = [place for place in places if _fits(some[place], found[place], name)]
        if not places:
            return
    own = _chosen(batch, places)
    # By the baseline's name, so that two random ones differ.
    ids = [some[place].prompt.sample_id for place in places]
    own = replace(own, seeds=tuple(sample_seeds(manifest.seed, f"start {name}", ids)))
    if isinstance(spec, CorruptedStart):
        others = [some[place].corrupted or [] for place in places]
        embedded = PromptBatch.of(loaded.model, others, [0] * len(others), [0] * len(others))
        own = replace(own, corrupted=embedded.x)
    start = _in_parts(
        loaded, own, True, lambda part: start_of(spec).draw(loaded.model, part), longest=True
    )
    at_start = _in_parts(
        loaded,
        replace(own, x=start),
        False,
        lambda part: loaded.model.logits(part.x, part.last),
    )
    numbers = {
        "score": score[places],
        "baseline_score": patching_score(manifest.score)(at_start, own.answer, own.foil),
        "confidence": confidence[places],
        "baseline_confidence": patching_score("prob")(at_start.double(), own.answer, None),
        "distance": (start - own.x).flatten(1).double().norm(dim=1),
    }
    numbers["relative_distance"] = numbers["distance"] / own.x.flatten(1).double().norm(dim=1)
    effects = {
        method: _effects(loaded, manifest, method, own, start) for method in manifest.methods
    }
    agreed: dict[str, Faithfulness] = {
        method: faithfulness(effects[method], effects[EXACT], own.real)
        for method in manifest.estimates
    }
    lists = {column: values.tolist() for column, values in numbers.items()}
    kept = {method: values.cpu() for method, values in effects.items()}
    for number, place in enumerate(places):
        length = len(some[place].ids)
        at = AtStart(numbers={column: values[number] for column, values in lists.items()})
        at.effects = {method: values[number, :, :length] for method, values in kept.items()}
        at.agreement = {
            method: {
                "l2": float(one.l2[number]),
                "relative_l2": float(one.relative_l2[number]),
                "spearman": float(one.spearman[number]),
            }
            for method, one in agreed.items()
        }
        _judge(at)
        found[place].starts[name] = at


def _judge(at: AtStart) -> None:
    if at.numbers["distance"] == 0:
        at.status = "degenerate"
        at.error = "the baseline is the prompt itself: there is nothing to unlearn, or to change"
    elif not all(bool(torch.isfinite(values).all()) for values in at.effects.values()):
        at.status, at.error = "non_finite", "an effect is NaN or infinite"


def _fits(tokens: Tokens, found: Patched, name: str) -> bool:
    """Whether the corrupted prompt can be used; if not, that is said."""
    error = None
    if tokens.corrupted is None:
        error = "the row has no corrupted prompt"
    elif len(tokens.corrupted) != len(tokens.ids):
        error = (
            f"the corrupted prompt has {len(tokens.corrupted)} tokens, the prompt "
            f"{len(tokens.ids)}; they need as many"
        )
    if error:
        found.starts[name] = AtStart("length_error", error)
    return error is None


def _effects(
    loaded: Loaded, manifest: PatchingManifest, method: str, batch: PromptBatch, start: Tensor
) -> Tensor:
    """(n, sites, L) by one method."""
    exact = method == EXACT
    rule = quadrature("left", 1)
    if method == "integrated_patching":
        rule = quadrature(manifest.integration.rule, manifest.integration.steps)

    def at(rows: int) -> Tensor:
        if exact:
            return activation_patching(
                loaded.model,
                batch,
                start,
                score=manifest.score,
                sites=loaded.sites,
                batch_size=rows,
            )
        return attribution_patching(
            loaded.model,
            batch,
            start,
            score=manifest.score,
            sites=loaded.sites,
            batch_size=rows,
            rule=rule,
        )

    rows = loaded.rows_at_once(batch.x.shape[1], graph=not exact)
    return halve_on_oom(at, rows)[0]


def _in_parts(
    loaded: Loaded,
    batch: PromptBatch,
    graph: bool,
    work: Callable[[PromptBatch], Tensor],
    *,
    longest: bool = False,
) -> Tensor:
    """``work`` on a few prompts at a time; ``longest``: it returns positions, which are padded."""

    def at(rows: int) -> Tensor:
        parts = []
        for first in range(0, len(batch), rows):
            one = work(batch.part(first, first + rows)).detach()
            if longest:
                padded = torch.zeros_like(batch.x[first : first + rows])
                padded[:, : one.shape[1]] = one
                one = padded
            parts.append(one)
        return torch.cat(parts)

    return halve_on_oom(at, loaded.rows_at_once(batch.x.shape[1], graph=graph))[0]


def _chosen(batch: PromptBatch, places: list[int]) -> PromptBatch:
    if len(places) == len(batch):
        return batch
    longest = int(batch.lengths[places].max())
    return PromptBatch(
        batch.x[places][:, :longest],
        batch.lengths[places],
        batch.answer[places],
        tuple(batch.seeds[place] for place in places),
        None if batch.foil is None else batch.foil[places],
    )
