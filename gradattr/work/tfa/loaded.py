"""What a worker keeps between tasks: the model, its gradient products, and query gradients.

The cache is module state on purpose: a worker process lives through many tasks, and this module is
imported once in each. It holds one run at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradattr.errors import ModelError
from gradattr.influence import GradientProducts
from gradattr.manifest.scores import TracInScore, score_id
from gradattr.models import TrainedReference, load_kept, model_of_run, read_trained
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.work.context import MAIN, RunContext
from gradattr.work.modules import load_module
from gradattr.work.resources import choose_device
from gradattr.work.tfa.checkpoints import checkpoint_models, kept_checkpoints

#: Bytes of images that are in memory at once, whatever the images' size.
BATCH_BYTES = 96 * 1024 * 1024


@dataclass
class Loaded:
    """A run's model on one device."""

    device: torch.device
    module: nn.Module
    """In eval mode, as built: nothing is folded."""
    products: GradientProducts
    checkpoints: dict[str, list[tuple[GradientProducts, float]]]
    """Of each TracIn score: products at its checkpoints, and learning rates."""
    digests: dict[str, str]
    """Role -> sha256 of the weights that were loaded."""
    kept: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """What tasks may keep for the next one; see ``remember``."""

    def epochs(self) -> list[int]:
        """Of the model's own training: those whose weights TracIn uses."""
        prefix = f"{MAIN}@"
        return sorted(int(r.removeprefix(prefix)) for r in self.digests if r.startswith(prefix))

    def remember(self, key: tuple[Any, ...], value: Any) -> Any:
        """Keep a value of this kind (the key's first part) in place of the one before."""
        for old in [old for old in self.kept if old[0] == key[0]]:
            del self.kept[old]
        self.kept[key] = value
        return value


_cache: dict[tuple[Any, ...], Loaded] = {}


def load_for(context: RunContext) -> Loaded:
    """The run's models in this process; loaded on the first task, kept for the next ones."""
    engine = context.manifest.engine
    device = choose_device(engine, context.manifest.runtime)
    key = (context.fingerprint, engine.batch_size, device)
    if key not in _cache:
        _cache.clear()
        _cache[key] = _load(context, device)
    return _cache[key]


def images_at_once(context: RunContext) -> int:
    """Images per reading step."""
    channels, height, width = context.shape
    return max(1, min(1024, BATCH_BYTES // (4 * channels * height * width)))


def _load(context: RunContext, device: torch.device) -> Loaded:
    manifest = context.tfa_manifest
    store = open_store(manifest.store)
    digests: dict[str, str] = {}
    module = load_module(context, MAIN, manifest.model, store, digests).to(device).eval()
    checkpoints = {
        score_id(score): _checkpoints(context, score, store, device, digests)
        for score in manifest.scores
        if isinstance(score, TracInScore)
    }
    return Loaded(device, module, _products(context, module), checkpoints, digests)


def _products(context: RunContext, module: nn.Module) -> GradientProducts:
    asked = context.manifest.engine.batch_size
    return GradientProducts(
        module,
        parameters=context.tfa_manifest.parameters,
        batch_size=None if asked == "auto" else asked,
    )


def _checkpoints(
    context: RunContext,
    score: TracInScore,
    store: ObjectStore,
    device: torch.device,
    digests: dict[str, str],
) -> list[tuple[GradientProducts, float]]:
    found = []
    for role, spec, lr in checkpoint_models(score, context.tfa_manifest.model):
        module = load_module(context, role, spec, store, digests).to(device).eval()
        found.append((_products(context, module), lr))
    if not found:
        found = _kept_epochs(context, score, store, device, digests)
    return found


def _kept_epochs(
    context: RunContext,
    score: TracInScore,
    store: ObjectStore,
    device: torch.device,
    digests: dict[str, str],
) -> list[tuple[GradientProducts, float]]:
    manifest = context.tfa_manifest
    reference = _reference(context, store)
    found = []
    for kept in kept_checkpoints(score, reference.kept):
        module = load_kept(
            store,
            reference,
            kept.epoch,
            manifest.model,
            shape=context.shape,
            num_classes=context.num_classes,
        )
        digests[f"{MAIN}@{kept.epoch}"] = kept.sha256
        found.append((_products(context, module.to(device).eval()), kept.lr))
    return found


def _reference(context: RunContext, store: ObjectStore) -> TrainedReference:
    """The training of the explained model, whose weights were loaded a moment ago."""
    role = context.model(MAIN)
    if not role.trained:
        return model_of_run(context.tfa_manifest.model.weights or "", store)
    trained = read_trained(store, role.digest)
    if trained is None:
        raise ModelError("the trained model vanished from the store; run the same command again")
    return trained
