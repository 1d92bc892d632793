"""What can be known to fail before anything is written: models that do not load or do not fit."""

from __future__ import annotations

import torch
from torch import nn

from gradattr.errors import MethodError, ModelError
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.model import AnyModel
from gradattr.models import build_model, check_finite, load_model
from gradattr.storage.objects import open_store
from gradattr.work.context import MAIN, RunContext
from gradattr.work.loaded import example_input
from gradattr.work.prepare import Prepared


def preflight(prepared: Prepared) -> list[str]:
    """Load or build the run's model and try it on one input. Returns notes for people.

    Raises ModelError for weights that are missing, damaged, not finite or of another
    architecture, and for a model that does not take the data's shape; MethodError for a target
    that the model does not have.
    """
    context = prepared.context
    manifest = context.manifest
    model = main_model(context)
    outputs = _outputs(model, manifest.model, context)
    notes = [
        f"model {manifest.model.arch}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"input {'x'.join(map(str, context.shape))}, {outputs} classes"
    ]
    if outputs != context.num_classes:
        raise ModelError(
            f"model: {outputs} outputs, but num_classes is {context.num_classes}; "
            "set model.num_classes to what the model has"
        )
    _check_targets(manifest, outputs)
    return notes


def main_model(context: RunContext) -> nn.Module:
    """The explained model on the CPU: with its weights where they exist already, as initialised
    where this run trains them."""
    spec = context.manifest.model
    if spec.train is not None:
        return build_model(
            spec, shape=context.shape, num_classes=context.num_classes, seed=spec.train.seed
        )
    model = load_model(
        spec,
        open_store(context.manifest.store),
        shape=context.shape,
        num_classes=context.num_classes,
        expected_digest=context.model(MAIN).digest,
    )
    check_finite(model)
    return model


def _outputs(model: nn.Module, spec: AnyModel, context: RunContext) -> int:
    shape = "x".join(map(str, context.shape))
    try:
        with torch.no_grad():
            logits = model.eval()(example_input(context))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise ModelError(
            f"model {spec.arch} does not take input of shape {shape} "
            f"(channels x height x width): {reason}. Change preprocess (resize, crop, color), "
            "or the model"
        ) from None
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"model {spec.arch} returns {found}, expected logits (n, classes)")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"model {spec.arch} returns NaN or infinity on a random image")
    return logits.shape[1]


def _check_targets(manifest: Manifest, outputs: int) -> None:
    if not isinstance(manifest, AttributeManifest):
        return
    for target in [manifest.target, *(m.target for m in manifest.methods)]:
        if isinstance(target, int) and target >= outputs:
            raise MethodError(f"target {target}: the model has classes 0 to {outputs - 1}")
