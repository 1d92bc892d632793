"""What can be known to fail before anything is written: models that do not load or do not fit."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from gradattr.data.types import DataIndex
from gradattr.errors import ModelError, UsageError
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.model import AnyModel
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.robustness_metrics import LabelRandomisationMetric
from gradattr.manifest.tfa import TfaManifest
from gradattr.models import build_model, load_model
from gradattr.models.architectures import describe
from gradattr.storage.objects import open_store
from gradattr.work.context import MAIN, RunContext
from gradattr.work.diffroar.design import base_models, learners
from gradattr.work.modules import example_input
from gradattr.work.planning.check_checks import check_checks
from gradattr.work.planning.check_diffroar import diffroar_notes
from gradattr.work.planning.check_evaluate import evaluation_notes
from gradattr.work.planning.check_methods import check_methods_fit
from gradattr.work.planning.check_patching import patching_notes
from gradattr.work.planning.check_tfa import check_layers, check_parts, tfa_notes
from gradattr.work.planning.prepare_audit import for_every_job
from gradattr.work.planning.prepare_tfa import explained_and_checkpoints
from gradattr.work.planning.prepared import Prepared
from gradattr.work.resources import choose_device


def preflight(context: RunContext) -> list[str]:
    """Load or build the run's models and try them. Returns notes for people.

    Raises ModelError for weights that are missing, damaged, not finite or of another
    architecture, and for a model that does not take the data's shape; MethodError for methods that
    do not fit their model; UsageError for a CUDA device that the tasks will not have, for checks
    that no such run could pass, and for metrics that do not fit the methods or the images.
    """
    _check_device(context)
    check_checks(context.manifest, open_store(context.manifest.store))
    notes: list[str] = []
    manifest = context.manifest
    if isinstance(manifest, PatchingManifest):
        return patching_notes(context)
    retrained = learners(manifest) if isinstance(manifest, DiffRoarManifest) else {}
    for role, spec in explained_models(context.manifest).items():
        model = first_look(context, role, spec)
        if spec.train is not None or role in retrained or _learns_labels(manifest):
            _check_trainable(model, spec)
        if isinstance(manifest, TfaManifest) and role == MAIN:
            check_parts(manifest, model)
            check_layers(manifest, model, example_input(context))
            data = {n: DataIndex.from_json(v) for n, v in context.indexes.items()}
            notes += tfa_notes(manifest, model, data)
        chosen = check_methods_fit(context, role, spec, model)
        if isinstance(manifest, EvaluateManifest) and role == MAIN:
            chosen += evaluation_notes(context, model)
        title = "model" if role == MAIN else f"model {role}:"
        notes.append(
            f"{title} {spec.arch}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"input {'x'.join(map(str, context.shape))}, {context.num_classes} classes"
        )
        notes += chosen
    if isinstance(context.manifest, DiffRoarManifest):
        notes += diffroar_notes(context)
    return notes


def preflight_run(prepared: Prepared, done: Collection[str] = ()) -> list[str]:
    """``preflight`` of a run; of an audit that of all its jobs but those that are ``done``, each
    note with the job's name."""
    if not prepared.jobs:
        return preflight(prepared.context)
    check_checks(prepared.context.manifest, open_store(prepared.context.manifest.store))
    left = {name: job.context for name, job in prepared.jobs.items() if name not in done}
    notes = for_every_job(left, preflight)
    return [f"{name}: {note}" for name, found in notes.items() for note in found]


def explained_models(manifest: Manifest) -> dict[str, AnyModel]:
    """The image models that a manifest asks about, by role."""
    if isinstance(manifest, DiffRoarManifest):
        return base_models(manifest)
    if isinstance(manifest, TfaManifest):
        return explained_and_checkpoints(manifest)
    if isinstance(manifest, PatchingManifest | AuditManifest):
        return {}
    return {MAIN: manifest.model}


def _learns_labels(manifest: Manifest) -> bool:
    """Whether the explained model's architecture is trained once more, on permuted labels."""
    return isinstance(manifest, EvaluateManifest) and any(
        isinstance(metric, LabelRandomisationMetric) for metric in manifest.metrics
    )


def _check_trainable(model: nn.Module, spec: AnyModel) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"model: {describe(spec)} is to be trained, but has no trainable parameters "
            "(requires_grad is off)"
        )


def _check_device(context: RunContext) -> None:
    """A CUDA device that this machine lacks, where the tasks will run on this machine too."""
    engine, runtime = context.manifest.engine, context.manifest.runtime
    if not engine.device.startswith("cuda"):
        return
    if runtime.address == "inline":
        choose_device(engine, runtime)
    elif not runtime.gpus_per_task:
        raise UsageError(
            f"engine.device {engine.device}: Ray hides the GPUs from tasks that reserve none; "
            "set runtime.gpus_per_task (1, or a fraction)"
        )


def first_look(context: RunContext, role: str, spec: AnyModel) -> nn.Module:
    """A model on the CPU: with its weights where they exist already, as initialised where this run
    trains them."""
    if spec.train is not None:
        return build_model(
            spec, shape=context.shape, num_classes=context.num_classes, seed=spec.train.seed
        )
    return load_model(
        spec,
        open_store(context.manifest.store),
        shape=context.shape,
        num_classes=context.num_classes,
        expected_digest=context.model(role).digest,
    )
