"""Keys that every kind of manifest has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gradattr.manifest.base import Seed, Slug, Spec
from gradattr.manifest.operation import Engine, Runtime, Store, StoreSpec


class ManifestBase(Spec):
    """Keys that every kind of manifest has."""

    version: Literal[1] = 1
    """Version of the manifest format."""
    name: Slug
    """First part of the run id: lower-case letters, digits, hyphens."""
    seed: Seed = 0
    """Fixes every random number of the run."""
    engine: Engine = Field(default_factory=Engine)
    runtime: Runtime = Field(default_factory=Runtime)
    store: StoreSpec = Field(default_factory=Store)
