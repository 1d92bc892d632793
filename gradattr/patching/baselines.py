"""Where patching starts from: for each prompt x a point x' of the same shape in embedding space.

Norms are Euclidean; those of a prompt are over all its tokens and coordinates. Padding stays zero.
No draw depends on the other prompts of a batch: randomness is that of the prompt's own seed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradattr.attribution.evaluator import PlainEvaluator
from gradattr.attribution.noise import standard_normal
from gradattr.attribution.paths.unlearning import Unlearned, unlearned_log_p
from gradattr.patching.language_model import End, LanguageModel
from gradattr.patching.prompts import PromptBatch


class Start(ABC):
    """A way to get x' from x; a frozen value."""

    @abstractmethod
    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        """x' (n, L, d) of every prompt."""


@dataclass(frozen=True)
class UnlearnedPrompt(Start):
    """UNI: x' = x + delta on the sphere of radius ``eps`` around the prompt, where the model says
    at the answer's position what it says of x after unlearning the answer.

    theta' = theta + ``eta`` * grad L / ||grad L||, L the cross-entropy of the answer at x, one norm
    over all parameters; x, a point in embedding space, stays. Then ``iterations`` times, from
    delta = 0: delta -= ``mu`` * grad KL(F(x; theta') || F(x + delta; theta)), over the whole
    vocabulary, and delta = eps * delta / ||delta||. Where a gradient is 0, x' is x.
    """

    eta: float = 1.0
    iterations: int = 10
    eps: float = 0.25
    mu: float = 0.1

    def __post_init__(self) -> None:
        self._steps()

    def _steps(self) -> Unlearned:
        return Unlearned(self.eta, self.iterations, self.eps, self.mu)

    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        log_goal = self.goal(model, batch)
        return self._steps().approach(PlainEvaluator(End(model, batch.last)), batch.x, log_goal)

    def goal(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        """(n, V) what the unlearned models say: log F(x; theta'), each prompt's own theta'.

        Prompts of one length together: each is called without its padding.
        """
        found: list[Tensor | None] = [None] * len(batch)
        lengths = batch.lengths.tolist()
        for length in sorted(set(lengths)):
            places = [place for place, own in enumerate(lengths) if own == length]
            end = End(model, torch.tensor([length - 1], device=batch.x.device))
            rows = unlearned_log_p(end, batch.x[places, :length], batch.answer[places], self.eta)
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return torch.stack([row for row in found if row is not None])


@dataclass(frozen=True)
class ZeroPrompt(Start):
    """Every embedding 0."""

    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        return torch.zeros_like(batch.x)


@dataclass(frozen=True)
class RandomPrompt(Start):
    """'norm': every token's embedding becomes a Gaussian vector of the same norm; nothing of the
    prompt is left. 'sphere': the prompt plus a random vector of norm ``eps``, as far away as UNI's
    baseline."""

    at: Literal["norm", "sphere"] = "norm"
    eps: float = 0.25

    def __post_init__(self) -> None:
        if self.at not in ("norm", "sphere"):
            raise ValueError(f"at: {self.at!r} given, expected 'norm' or 'sphere'")
        _positive("eps", self.eps)

    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        noise = _gaussian(batch, "random prompt")
        if self.at == "norm":
            length = noise.norm(dim=2, keepdim=True)
            safe = torch.where(length > 0, length, torch.ones_like(length))
            return noise * (batch.x.norm(dim=2, keepdim=True) / safe)
        return batch.x + self.eps * noise / noise.flatten(1).norm(dim=1)[:, None, None]


@dataclass(frozen=True)
class NoisyPrompt(Start):
    """x + ``sigma`` * s * N(0, 1), s the standard deviation of all tokens' embeddings: the
    corruption of causal tracing (Meng et al. 2022), where sigma is 3."""

    sigma: float = 3.0

    def __post_init__(self) -> None:
        _positive("sigma", self.sigma)

    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        spread = self.sigma * model.embedding_moments[1]
        return batch.x + spread * _gaussian(batch, "noisy prompt")


@dataclass(frozen=True)
class MeanToken(Start):
    """Every token's embedding becomes the mean over the vocabulary."""

    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        return model.embedding_moments[0].to(batch.x) * batch.real[:, :, None]


@dataclass(frozen=True)
class Corrupted(Start):
    """Another prompt of equal length, which the data gives: the field's usual way."""

    def draw(self, model: LanguageModel, batch: PromptBatch) -> Tensor:
        if batch.corrupted is None:
            raise ValueError("baseline 'corrupted': these prompts come without corrupted ones")
        return batch.corrupted


def _gaussian(batch: PromptBatch, purpose: str) -> Tensor:
    """N(0, 1) at the tokens of each prompt, whatever it is padded to; zeros after its end."""
    found = torch.zeros_like(batch.x)
    for place, (length, seed) in enumerate(zip(batch.lengths.tolist(), batch.seeds, strict=True)):
        own = batch.x[place : place + 1, :length]
        found[place, :length] = standard_normal(own, [seed], purpose)[0]
    return found


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: {value} given, more than 0 expected")
