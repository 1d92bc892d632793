"""``kind: train`` -- train a model and keep it in the store for other runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gradattr.manifest.common import ManifestBase
from gradattr.manifest.data import Preprocess
from gradattr.manifest.model import ModelSpec


class TrainManifest(ManifestBase):
    """Train a model; other manifests name it as ``weights: run:<run id>``."""

    kind: Literal["train"]
    model: ModelSpec
    """The architecture, with its ``train`` block."""
    preprocess: Preprocess = Field(default_factory=Preprocess)
    """From pixels to model input."""

    @model_validator(mode="after")
    def _has_train(self) -> TrainManifest:
        if self.model.train is None:
            raise ValueError("model: kind 'train' needs a 'train' block")
        return self
