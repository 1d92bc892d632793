"""What a worker keeps between tasks: the model ready to be differentiated, pools, batch size.

The cache is module state on purpose: a Ray worker process lives through many tasks, and this module
is imported once in each. It holds one run's models at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.requests import MethodRequest
from gradattr.manifest.baselines import SampleBaseline
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.methods import LinearMethod
from gradattr.manifest.model import LinearModel
from gradattr.metrics.forward_precision import Bfloat16Forwards
from gradattr.storage.objects import open_store
from gradattr.work.context import MAIN, RunContext, linear_role, method_id
from gradattr.work.methods import method_requests, normalization
from gradattr.work.modules import (
    example_input,
    forward_batch,
    load_module,
    load_pool,
    micro_batch,
    prepare_model,
)
from gradattr.work.resources import choose_device


@dataclass
class Loaded:
    """A run's models and requests on one device."""

    device: torch.device
    evaluator: Evaluator
    reference: Evaluator | None
    """The same model in fp32, where the manifest asks for another precision."""
    requests: list[MethodRequest]
    normalization: Normalization
    batch_size: int
    forward_batch_size: int
    """Where no gradients are taken, in judging maps."""
    model_digests: dict[str, str]
    """Role -> sha256 of the weights that were loaded."""
    report: dict[str, Any] = field(default_factory=dict)
    """What tuning did to the model, and what it left alone and why; what methods chose."""

    @cached_property
    def bfloat16(self) -> Evaluator:
        """The same model, whose answers without gradients are computed in bfloat16."""
        return Bfloat16Forwards(self.reference or self.evaluator)

    others: dict[str, Evaluator] = field(default_factory=dict)
    """By role: models that the explained one is compared with, loaded when they are asked for."""


_cache: dict[tuple[Any, ...], Loaded] = {}


def load_for(context: RunContext) -> Loaded:
    """The run's models in this process; loaded on the first task, kept for the next ones."""
    manifest = context.manifest
    # Besides the run: what a second attempt may ask for otherwise, after memory ran out.
    key = (
        context.fingerprint,
        manifest.engine.batch_size,
        choose_device(manifest.engine, manifest.runtime),
    )
    if key not in _cache:
        # One run at a time: a worker that serves many runs must not collect their models.
        _cache.clear()
        _cache[key] = _load(context)
    return _cache[key]


def _load(context: RunContext) -> Loaded:
    manifest = context.attribute_manifest
    store = open_store(manifest.store)
    device = choose_device(manifest.engine, manifest.runtime)
    digests: dict[str, str] = {}
    model = load_module(context, MAIN, manifest.model, store, digests)
    evaluator, report = prepare_model(context, model, manifest.model, device)
    reference = None
    if manifest.engine.precision != "fp32":
        reference, _ = prepare_model(context, model, manifest.model, device, "fp32")
    linear: dict[str, Evaluator] = {}
    for method in manifest.methods:
        if isinstance(method, LinearMethod):
            recipe = method.train or manifest.model.train
            spec = LinearModel(arch="linear", train=recipe)
            module = load_module(context, linear_role(method), spec, store, digests)
            linear[method_id(method)], _ = prepare_model(context, module, spec, device, "fp32")
    pools = {
        method_id(method): load_pool(context, manifest, method_id(method), device)
        for method in manifest.methods
        if isinstance(getattr(method, "baseline", None), SampleBaseline)
    }
    requests = method_requests(manifest, pools.__getitem__, linear.__getitem__)
    example = example_input(context).to(device)
    chosen = {r.id: r.chosen(evaluator.network, example) for r in requests}
    report |= {"chosen": {name: text for name, text in chosen.items() if text is not None}}
    batch_size = micro_batch(context, evaluator, device)
    judging = isinstance(manifest, EvaluateManifest)
    return Loaded(
        device=device,
        evaluator=evaluator,
        reference=reference,
        requests=requests,
        normalization=normalization(context.preprocess, context.shape[0]),
        batch_size=batch_size,
        forward_batch_size=forward_batch(context, evaluator, device) if judging else batch_size,
        model_digests=digests,
        report=report,
    )
