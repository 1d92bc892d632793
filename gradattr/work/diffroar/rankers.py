"""What a worker keeps between tasks of the ranking stage: one ranker's model and requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.requests import MethodRequest
from gradattr.manifest.baselines import SampleBaseline
from gradattr.storage.objects import open_store
from gradattr.work.context import RunContext, method_id
from gradattr.work.diffroar.design import base_models, ranker_methods
from gradattr.work.methods import method_requests, normalization
from gradattr.work.modules import load_module, load_pool, micro_batch, prepare_model
from gradattr.work.resources import choose_device


@dataclass
class Ranker:
    """A model whose attributions order coordinates, on one device."""

    device: torch.device
    evaluator: Evaluator
    requests: list[MethodRequest]
    normalization: Normalization
    batch_size: int
    model_digests: dict[str, str]
    """Role -> sha256 of the weights that were loaded."""
    report: dict[str, Any]


_cache: dict[tuple[Any, ...], Ranker] = {}


def load_ranker(context: RunContext, name: str) -> Ranker:
    """The ranker of this name in this process; loaded on its first task, kept for the next."""
    manifest = context.manifest
    device = choose_device(manifest.engine, manifest.runtime)
    key = (context.fingerprint, name, manifest.engine.batch_size, device)
    if key not in _cache:
        # One at a time: the tasks of a ranker follow each other.
        _cache.clear()
        _cache[key] = _load(context, name, device)
    return _cache[key]


def _load(context: RunContext, name: str, device: torch.device) -> Ranker:
    manifest = context.diffroar_manifest
    spec = base_models(manifest)[name]
    digests: dict[str, str] = {}
    model = load_module(context, name, spec, open_store(manifest.store), digests)
    evaluator, report = prepare_model(context, model, spec, device)
    methods = ranker_methods(manifest, name)
    pools = {
        method_id(method): load_pool(context, manifest, method_id(method), device)
        for method in methods
        if isinstance(getattr(method, "baseline", None), SampleBaseline)
    }
    # The linear baseline is a ranker of its own: no method asks for a linear model here.
    linear: dict[str, Evaluator] = {}
    return Ranker(
        device=device,
        evaluator=evaluator,
        requests=method_requests(manifest, pools.__getitem__, linear.__getitem__, methods),
        normalization=normalization(context.preprocess, context.shape[0]),
        batch_size=micro_batch(context, evaluator, device),
        model_digests=digests,
        report=report,
    )
