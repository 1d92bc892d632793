"""The kinds of manifest. A later kind is one more module and one more line in ``KINDS``."""

from __future__ import annotations

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.tfa import TfaManifest
from gradattr.manifest.train import TrainManifest

Manifest = (
    AttributeManifest
    | TrainManifest
    | DiffRoarManifest
    | TfaManifest
    | PatchingManifest
    | EvaluateManifest
)

KINDS: dict[str, type[Manifest]] = {
    "attribute": AttributeManifest,
    "train": TrainManifest,
    "diffroar": DiffRoarManifest,
    "tfa": TfaManifest,
    "patching": PatchingManifest,
    "evaluate": EvaluateManifest,
}
