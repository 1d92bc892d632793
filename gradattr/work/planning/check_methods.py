"""Whether methods fit a model: those that would mislead on it, or say nothing, are named."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gradattr.attribution.requests import MethodRequest
from gradattr.errors import MethodError
from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.model import AnyModel
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.training_maps import TwoStepMap
from gradattr.models.architectures import describe
from gradattr.work.context import MAIN, RunContext
from gradattr.work.diffroar.design import ranker_methods
from gradattr.work.methods import request_of, stand_in_requests
from gradattr.work.modules import example_input
from gradattr.work.tfa.training_maps import no_model, no_pool


def check_methods_fit(
    context: RunContext, role: str, spec: AnyModel, model: nn.Module
) -> list[str]:
    """Notes of what methods choose by themselves on the model of this role, such as a layer.

    The model is tried on a small input, on the device that it is on. Raises MethodError that names
    every method of the manifest that does not fit it, and why.
    """
    modes = {module: module.training for module in model.modules()}
    example = example_input(context)
    misfits, notes = [], []
    try:
        model.eval()
        for request in _requests(context, role):
            obstacle = request.obstacle(model, example)
            if obstacle is not None:
                misfits.append(f"method '{request.id}' does not fit the model: {obstacle}")
                continue
            chosen = request.chosen(model, example)
            if chosen is not None:
                notes.append(f"method '{request.id}' looks at {chosen}")
    finally:
        for module, training in modes.items():
            module.training = training
    if misfits:
        title = "model" if role == MAIN else f"model '{role}'"
        raise MethodError(
            "\n".join([*misfits, f"({title}: {describe(spec)}; leave out what does not fit it)"])
        )
    return notes


def _requests(context: RunContext, role: str) -> Sequence[MethodRequest]:
    """The methods that explain the model of this role."""
    manifest, size = context.manifest, (context.shape, context.num_classes)
    if isinstance(manifest, AttributingManifest):
        return stand_in_requests(manifest, *size)
    if isinstance(manifest, DiffRoarManifest):
        return stand_in_requests(manifest, *size, ranker_methods(manifest, role))
    if isinstance(manifest, TfaManifest) and role == MAIN:
        two_step = [spec for spec in manifest.maps if isinstance(spec, TwoStepMap)]
        return [request_of(spec.method, spec.target, no_pool, no_model) for spec in two_step]
    return []
