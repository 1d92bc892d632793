"""Keys that every kind of manifest has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradattr.manifest.base import Seed, Slug, Spec
from gradattr.manifest.checks import CheckSpec
from gradattr.manifest.operation import Engine, Runtime, Store, StoreSpec


def _no_bool(value: Any) -> Any:
    # Python's True equals 1, and a Literal would let it pass.
    if isinstance(value, bool):
        raise ValueError("expected 1")
    return value


def _is_empty(value: object) -> bool:
    return value == []


class ManifestBase(Spec):
    """Keys that every kind of manifest has."""

    version: Annotated[Literal[1], BeforeValidator(_no_bool)] = 1
    """Version of the manifest format."""
    name: Slug
    """First part of the run id: lower-case letters, digits, hyphens."""
    seed: Seed = 0
    """Fixes noise, random baselines and pools. A training has a seed of its own."""
    engine: Engine = Field(default_factory=Engine)
    runtime: Runtime = Field(default_factory=Runtime)
    store: StoreSpec = Field(default_factory=Store)
    checks: list[CheckSpec] = Field(default=[], max_length=1000, exclude_if=_is_empty)
    """What numbers of the committed run must be; 'gradattr check' says whether they are. Another
    bound computes nothing anew."""
