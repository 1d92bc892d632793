"""What every task of a run shares: small, JSON, sent once to the workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from gradattr.manifest.attributing import AttributingManifest
from gradattr.manifest.data import Preprocess
from gradattr.manifest.diffroar import DiffRoarManifest
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.manifest.kinds import KINDS, Manifest
from gradattr.manifest.methods import MethodSpec
from gradattr.manifest.patching import PatchingManifest
from gradattr.manifest.tfa import TfaManifest
from gradattr.storage.filesystem import S3Options

#: Role of the model that is explained; auxiliary models are called 'linear:<method id>', those of
#: an audit by their names.
MAIN = "model"


@dataclass(frozen=True)
class ModelRef:
    """A model of the run: where its weights come from and what identifies them."""

    role: str
    digest: str
    """Content digest of the weights, or the digest of the recipe that trains them."""
    trained: bool
    """True: the weights are trained by this run's first stage and stand in the store."""


@dataclass(frozen=True)
class RunContext:
    """Everything a task needs besides its own payload."""

    run_id: str
    fingerprint: str
    manifest_json: dict[str, Any]
    """The resolved manifest, store and runtime included; secrets only as '${NAME}'."""
    shape: tuple[int, int, int]
    """(channels, height, width) of the model's input."""
    num_classes: int
    preprocess_json: dict[str, Any]
    """The pre-processing in full, 'weights' resolved."""
    models: tuple[ModelRef, ...]
    pools: dict[str, list[dict[str, Any]]]
    """Baseline pools: method id -> shards (JSON) of the rows in the pool."""
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Data sets that every task of a stage needs whole, by name: their indexes (JSON)."""
    sources: dict[str, str] = field(default_factory=dict)
    """The user's own model factories: name -> sha256 of the source when the run was planned."""

    @cached_property
    def manifest(self) -> Manifest:
        return KINDS[self.manifest_json["kind"]].model_validate(self.manifest_json)

    @cached_property
    def attribute_manifest(self) -> AttributingManifest:
        assert isinstance(self.manifest, AttributingManifest)
        return self.manifest

    @cached_property
    def evaluate_manifest(self) -> EvaluateManifest:
        assert isinstance(self.manifest, EvaluateManifest)
        return self.manifest

    @cached_property
    def diffroar_manifest(self) -> DiffRoarManifest:
        assert isinstance(self.manifest, DiffRoarManifest)
        return self.manifest

    @cached_property
    def tfa_manifest(self) -> TfaManifest:
        assert isinstance(self.manifest, TfaManifest)
        return self.manifest

    @cached_property
    def patching_manifest(self) -> PatchingManifest:
        assert isinstance(self.manifest, PatchingManifest)
        return self.manifest

    @cached_property
    def data_options(self) -> S3Options | None:
        return data_options(self.manifest)

    @cached_property
    def preprocess(self) -> Preprocess:
        return Preprocess.model_validate(self.preprocess_json)

    def model(self, role: str) -> ModelRef:
        return next(ref for ref in self.models if ref.role == role)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunContext:
        return cls(
            **{
                **value,
                "shape": tuple(value["shape"]),
                "models": tuple(ModelRef(**ref) for ref in value["models"]),
            }
        )


def data_options(manifest: Manifest) -> S3Options | None:
    """How data on S3 is opened: as the store is, if that is on S3, else as the environment says."""
    if not manifest.store.url.startswith("s3://"):
        return None
    return S3Options.from_store(manifest.store)


def method_id(method: MethodSpec) -> str:
    """The value of the 'method' column."""
    return method.id or method.name


def linear_role(method: MethodSpec) -> str:
    """Role of the linear model that the method 'linear' trains."""
    return f"linear:{method_id(method)}"
