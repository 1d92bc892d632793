"""What a worker keeps between tasks: the language model and its tokenizer. One run's at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.starts import (
    AnyStart,
    CorruptedStart,
    MeanStart,
    NoiseStart,
    RandomStart,
    UniStart,
)
from gradattr.models.language_models import load_language_model
from gradattr.patching import (
    Corrupted,
    LanguageModel,
    MeanToken,
    NoisyPrompt,
    RandomPrompt,
    Start,
    UnlearnedPrompt,
    ZeroPrompt,
    language_model,
)
from gradattr.work.context import MAIN, RunContext
from gradattr.work.resources import choose_device

#: Bytes that a batch may take, about.
_BUDGET = {"cpu": 2**28, "cuda": 2**32}
_LARGEST = 256
#: Numbers of the residual stream's size that a block makes of each position (a block of GPT-2
#: keeps 34 for its backward pass, with its attention at short lengths).
_PER_BLOCK = 40


@dataclass
class Loaded:
    """A run's model on its device."""

    device: torch.device
    model: LanguageModel
    tokenizer: Any
    digest: str
    longest: int
    """Tokens of a prompt, at most."""
    sites: tuple[int, ...]
    asked: int | None
    """Rows at once, where the manifest says."""

    def rows_at_once(self, length: int, *, graph: bool) -> int:
        """A power of two such that runs on prompts of this length fit; with ``graph`` for a
        backward pass. A function of model, length and kind of device alone."""
        if self.asked is not None:
            return self.asked
        width = self.model.width
        blocks = self.model.sites if graph else 1
        numbers = 3 * self.model.vocabulary + _PER_BLOCK * blocks * length * width
        rows = _LARGEST
        while rows > 1 and rows * numbers * 4 > _BUDGET.get(self.device.type, _BUDGET["cpu"]):
            rows //= 2
        return rows

    def prompts_at_once(self, length: int) -> int:
        """Prompts whose residual streams are in memory together."""
        width = self.model.width
        each = 4 * 4 * len(self.sites) * length * width
        budget = _BUDGET.get(self.device.type, _BUDGET["cpu"])
        return max(1, min(_LARGEST, budget // each))


_cache: dict[tuple[Any, ...], Loaded] = {}


def load_for(context: RunContext) -> Loaded:
    """The run's model in this process; loaded on the first task, kept for the next ones."""
    manifest = context.patching_manifest
    device = choose_device(manifest.engine, manifest.runtime)
    key = (context.fingerprint, manifest.engine.batch_size, device)
    if key not in _cache:
        _cache.clear()
        _cache[key] = load(manifest, context.model(MAIN).digest, device)
    return _cache[key]


def load(manifest: PatchingManifest, digest: str, device: torch.device) -> Loaded:
    """Raises ModelError as ``load_language_model`` and ``language_model`` do; ValueError for sites
    that the model does not have."""
    network, tokenizer = load_language_model(manifest.model, digest)
    model = language_model(network.to(device), manifest.model.blocks)
    context = getattr(network.config, "max_position_embeddings", None)
    batch_size = manifest.engine.batch_size
    sites = range(model.sites) if manifest.sites == "all" else manifest.sites
    return Loaded(
        device=device,
        model=model,
        tokenizer=tokenizer,
        digest=digest,
        longest=min(manifest.max_tokens, context or manifest.max_tokens),
        sites=tuple(sites),
        asked=None if batch_size == "auto" else batch_size,
    )


def start_of(spec: AnyStart) -> Start:
    """A manifest's baseline as one of the mathematics."""
    if isinstance(spec, UniStart):
        return UnlearnedPrompt(spec.eta, spec.iterations, spec.eps, spec.mu)
    if isinstance(spec, RandomStart):
        return RandomPrompt(spec.at, spec.eps)
    if isinstance(spec, NoiseStart):
        return NoisyPrompt(spec.sigma)
    if isinstance(spec, MeanStart):
        return MeanToken()
    return Corrupted() if isinstance(spec, CorruptedStart) else ZeroPrompt()
