"""A run's models in one process: loaded, checked against what was planned, tuned; and its pools."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.microbatch import choose_forward_batch, choose_micro_batch
from gradattr.attribution.tuning.tuned import Precision, tune
from gradattr.data.registry import read_shard
from gradattr.data.types import ShardRef
from gradattr.errors import DataError, ModelError
from gradattr.manifest.baselines import SampleBaseline
from gradattr.manifest.model import AnyModel, PythonModel
from gradattr.models import build_model, load_model, load_trained, read_trained
from gradattr.models.architectures import describe
from gradattr.models.python_factory import factory_digest
from gradattr.storage.layout import RunPaths, trained_record_key
from gradattr.storage.objects import ObjectStore
from gradattr.work.context import RunContext, method_id
from gradattr.work.methods import Attributing


def prepare_model(
    context: RunContext,
    model: nn.Module,
    spec: AnyModel,
    device: torch.device,
    precision: Precision | None = None,
) -> tuple[Evaluator, dict[str, Any]]:
    """The model on its device, tuned as the manifest says, and what was done to it."""
    engine = context.manifest.engine
    example = example_input(context).to(device)
    steps = dict.fromkeys(("fold", "split", "channels_last"), engine.tune)
    tuned = tune(model.to(device), example, precision=precision or engine.precision, **steps)
    if not tuned.report["independent_rows"]:
        raise ModelError(
            f"model {describe(spec)}: its output for an image depends on the "
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


def forward_batch(context: RunContext, evaluator: Evaluator, device: torch.device) -> int:
    """The same where no gradients are taken."""
    asked = context.manifest.engine.batch_size
    if asked != "auto":
        return asked
    return choose_forward_batch(evaluator, example_input(context).to(device)[:1], device)


def build_module(context: RunContext, spec: AnyModel, seed: int) -> nn.Module:
    """A model of the run with fresh weights, on the CPU. ModelError if the user's own factory is
    not what it was when the run was planned."""
    check_source(context, spec)
    return build_model(spec, shape=context.shape, num_classes=context.num_classes, seed=seed)


def check_source(context: RunContext, spec: AnyModel) -> None:
    """ModelError if a user's own factory changed after the run was planned, or is another one on
    this machine."""
    if not isinstance(spec, PythonModel) or spec.factory not in context.sources:
        return
    if factory_digest(spec) != context.sources[spec.factory]:
        raise ModelError(
            f"model.factory: the source of {spec.factory} is not what it was when the run was "
            "planned; the same command plans a new run (or put the planned source back)"
        )


def load_module(
    context: RunContext, role: str, spec: AnyModel, store: ObjectStore, digests: dict[str, str]
) -> nn.Module:
    """A model of the run with its weights, on the CPU; ``digests`` learns their sha256.

    Raises ModelError if weights that this run has trained are gone or damaged.
    """
    ref = context.model(role)
    if ref.trained:
        check_source(context, spec)
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


def load_pool(
    context: RunContext, manifest: Attributing, label: str, device: torch.device
) -> torch.Tensor:
    """The baseline pool (p, channels, height, width) of a method; DataError if no image of it can
    be read."""
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
