"""The kinds of manifest that are one job: every kind but audits, which bundle some of them."""

from __future__ import annotations

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.train import TrainManifest

JobManifest = (
    AttributeManifest
    | TrainManifest
    | DiffRoarManifest
    | TfaManifest
    | PatchingManifest
    | EvaluateManifest
)

JOB_KINDS: dict[str, type[JobManifest]] = {
    "attribute": AttributeManifest,
    "train": TrainManifest,
    "diffroar": DiffRoarManifest,
    "tfa": TfaManifest,
    "patching": PatchingManifest,
    "evaluate": EvaluateManifest,
}
