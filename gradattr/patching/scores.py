"""The number that patching changes: what a language model says of one next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

ScoreName = Literal["prob", "log_prob", "logit", "logit_difference"]
#: (logits (m, V), answer (m,), foil (m,) or None) -> (m,).
PatchingScore = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _logit(logits: Tensor, answer: Tensor, foil: Tensor | None) -> Tensor:
    return logits.gather(1, answer[:, None])[:, 0]


def _log_prob(logits: Tensor, answer: Tensor, foil: Tensor | None) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return _logit(torch.log_softmax(logits, dim=1, dtype=wide), answer, None)


def _prob(logits: Tensor, answer: Tensor, foil: Tensor | None) -> Tensor:
    return _log_prob(logits, answer, None).exp()


def _logit_difference(logits: Tensor, answer: Tensor, foil: Tensor | None) -> Tensor:
    if foil is None:
        raise ValueError("score 'logit_difference' needs a foil for every prompt")
    return _logit(logits, answer, None) - _logit(logits, foil, None)


SCORES: dict[ScoreName, PatchingScore] = {
    "prob": _prob,
    "log_prob": _log_prob,
    "logit": _logit,
    "logit_difference": _logit_difference,
}


def patching_score(name: ScoreName) -> PatchingScore:
    """The score of that name. ValueError: there is none."""
    if name not in SCORES:
        raise ValueError(f"score: {name!r} given, expected one of {', '.join(SCORES)}")
    return SCORES[name]
