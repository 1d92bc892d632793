"""From a manifest to a plan: look at data and models, fix their digests, cut the work in tasks.

Reads data-set headers and hashes files; writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradattr.data.registry import input_shape
from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.audit import AuditManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.job_kinds import JobManifest
from gradattr.manifest.kinds import Manifest
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.train import TrainManifest
from gradattr.plan import Plan
from gradattr.storage.objects import ObjectStore, open_store
from gradattr.work.context import MAIN, data_options
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepare_attribute import prepare_attribute
from gradattr.work.planning.prepare_audit import prepare_audit
from gradattr.work.planning.prepare_diffroar import prepare_diffroar
from gradattr.work.planning.prepare_evaluate import prepare_evaluate
from gradattr.work.planning.prepare_patching import prepare_patching
from gradattr.work.planning.prepare_tfa import prepare_tfa
from gradattr.work.planning.prepared import InputSpace, Prepared, assemble_run
from gradattr.work.planning.trainings import num_classes, plan_trainings


def make_plan(manifest: Manifest) -> Plan:
    """Return the plan of a manifest: stages, tasks, shard keys, fingerprint, run id.

    Raises DataError, ModelError or MethodError (exit code 2) for inputs that cannot work.
    """
    return prepare(manifest).plan


def prepare(manifest: Manifest, store: ObjectStore | None = None) -> Prepared:
    """The plan together with the context of its tasks."""
    store = store or open_store(manifest.store)
    indexes = Indexes(data_options(manifest))
    if isinstance(manifest, AuditManifest):
        return prepare_audit(
            manifest, store, lambda job, planned: _prepare_job(job, store, indexes, planned)
        )
    return _prepare_job(manifest, store, indexes)


def _prepare_job(
    manifest: JobManifest,
    store: ObjectStore,
    indexes: Indexes,
    planned: Mapping[str, dict[str, Any]] | None = None,
) -> Prepared:
    if isinstance(manifest, AttributeManifest):
        return prepare_attribute(manifest, store, indexes)
    if isinstance(manifest, EvaluateManifest):
        return prepare_evaluate(manifest, store, indexes, planned)
    if isinstance(manifest, DiffRoarManifest):
        return prepare_diffroar(manifest, store, indexes)
    if isinstance(manifest, TfaManifest):
        return prepare_tfa(manifest, store, indexes)
    if isinstance(manifest, PatchingManifest):
        return prepare_patching(manifest, store)
    return _prepare_train(manifest, store, indexes)


def _prepare_train(manifest: TrainManifest, store: ObjectStore, indexes: Indexes) -> Prepared:
    assert manifest.model.train is not None
    index = indexes.get(manifest.model.train.data)
    shape = input_shape(manifest.model.train.data, index, manifest.preprocess)
    classes = num_classes(manifest.model, index, indexes)
    space = InputSpace(shape, classes, manifest.preprocess)
    trainings = plan_trainings(
        {MAIN: manifest.model}, manifest.preprocess, shape, classes, store, indexes
    )
    inputs = {**trainings.inputs(), **space.inputs(index)}
    return assemble_run(manifest, store, inputs, trainings.stages(), space, trainings)
