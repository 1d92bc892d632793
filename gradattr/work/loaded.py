"""What a worker keeps between tasks: the model ready to be differentiated, pools, batch size.

The cache is module state on purpose: a Ray worker process lives through many tasks, and this module
is imported once in each. It holds one run's models at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.microbatch import choose_micro_batch
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.tuned import Precision, tune
from gradattr.data.registry import read_shard
from gradattr.data.types import ShardRef
from gradattr.errors import DataError, ModelError
from gradattr.manifest.methods import LinearMethod, SampleBaseline
from gradattr.manifest.model import AnyModel, LinearModel
from gradattr.models import load_model, load_trained, read_trained
from gradattr.models.architectures import describe
from gradattr.storage.layout import RunPaths, trained_record_key
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.work.context import MAIN, RunContext, linear_role, method_id
from gradattr.work.methods import method_requests, normalization
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
    model_digests: dict[str, str]
    """Role -> sha256 of the weights that were loaded."""
    report: dict[str, Any] = field(default_factory=dict)
    """What tuning did to the model, and what it left alone and why."""


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
    model = _module(context, MAIN, manifest.model, store, digests)
    evaluator, report = prepare_model(context, model, device)
    reference = None
    if manifest.engine.precision != "fp32":
        reference, _ = prepare_model(context, model, device, precision="fp32")
    linear: dict[str, Evaluator] = {}
    for method in manifest.methods:
        if isinstance(method, LinearMethod):
            recipe = method.train or manifest.model.train
            spec = LinearModel(arch="linear", train=recipe)
            module = _module(context, linear_role(method), spec, store, digests)
            linear[method_id(method)], _ = prepare_model(context, module, device, precision="fp32")
    pools = {
        method_id(method): _pool(context, method_id(method), device)
        for method in manifest.methods
        if isinstance(getattr(method, "baseline", None), SampleBaseline)
    }
    return Loaded(
        device=device,
        evaluator=evaluator,
        reference=reference,
        requests=method_requests(manifest, pools.__getitem__, linear.__getitem__),
        normalization=normalization(context.preprocess, context.shape[0]),
        batch_size=micro_batch(context, evaluator, device),
        model_digests=digests,
        report=report,
    )


def prepare_model(
    context: RunContext, model: nn.Module, device: torch.device, precision: Precision | None = None
) -> tuple[Evaluator, dict[str, Any]]:
    """The model on its device, tuned as the manifest says, and what was done to it."""
    engine = context.manifest.engine
    example = example_input(context).to(device)
    steps = dict.fromkeys(("fold", "split", "channels_last"), engine.tune)
    tuned = tune(model.to(device), example, precision=precision or engine.precision, **steps)
    if not tuned.report["independent_rows"]:
        raise ModelError(
            f"model {describe(context.manifest.model)}: its output for an image depends on the "
            "other images of the batch (a batch-norm without running statistics?), so its maps "
            "would depend on the batch size; give it running statistics"
        )
    return tuned, tuned.report


def example_input(context: RunContext) -> torch.Tensor:
    """Two inputs of the right shape, the same on every machine, to try a model on."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand((2, *context.shape), generator=generator)


def micro_batch(context: RunContext, evaluator: Evaluator, device: torch.device) -> int:
    """Model evaluations at once: what the manifest says, or what the activations allow."""
    asked = context.manifest.engine.batch_size
    if asked != "auto":
        return asked
    return choose_micro_batch(evaluator, example_input(context).to(device)[:1], device)


def _module(
    context: RunContext, role: str, spec: AnyModel, store: ObjectStore, digests: dict[str, str]
) -> nn.Module:
    ref = context.model(role)
    if ref.trained:
        trained = read_trained(store, ref.digest)
        if trained is None:
            done = store.url(RunPaths(context.run_id).stage_records("train"))
            raise ModelError(
                f"the trained model {store.url(trained_record_key(ref.digest))} vanished or was "
                f"damaged; delete {done}, and the same command trains it again"
            )
        digests[role] = trained.sha256
        return load_trained(
            store, trained, spec, shape=context.shape, num_classes=context.num_classes
        )
    digests[role] = ref.digest
    return load_model(
        spec,
        store,
        shape=context.shape,
        num_classes=context.num_classes,
        expected_digest=ref.digest,
    )


def _pool(context: RunContext, label: str, device: torch.device) -> torch.Tensor:
    manifest = context.attribute_manifest
    method = next(m for m in manifest.methods if method_id(m) == label)
    baseline = getattr(method, "baseline", None)
    assert isinstance(baseline, SampleBaseline)
    images = []
    for value in context.pools[label]:
        shard = ShardRef.from_json(value)
        for batch in read_shard(
            baseline.data or manifest.data,
            shard,
            context.preprocess,
            batch_size=256,
            options=context.data_options,
        ):
            images.append(batch.x)
    pool = torch.cat(images) if images else torch.empty(0)
    if len(pool) == 0:
        raise DataError(f"method '{label}': no image of its baseline pool can be read")
    return pool.to(device)
