"""A small valid manifest, its faults as lines, and a strategy of valid manifests."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from gradattr.errors import ManifestError
from gradattr.manifest.loading import parse_manifest
from tests.made_up_manifests import manifests

MINIMAL = """\
kind: attribute
name: tiny
data: digits
model:
  arch: mlp
  weights: model.safetensors
methods: [saliency]
"""


@pytest.fixture(scope="session")
def minimal() -> str:
    return MINIMAL


@pytest.fixture(scope="session")
def faults() -> Callable[..., list[str]]:
    """Lines of the ManifestError that a text causes."""

    def lines(text: str | bytes, overrides: Sequence[str] = ()) -> list[str]:
        with pytest.raises(ManifestError) as caught:
            parse_manifest(text, file="m.yaml", overrides=overrides)
        return str(caught.value).split("\n")

    return lines


@pytest.fixture(scope="session")
def fault(faults: Callable[..., list[str]]) -> Callable[..., str]:
    """The one line of a text that has one fault."""

    def line(text: str | bytes, overrides: Sequence[str] = ()) -> str:
        found = faults(text, overrides)
        assert len(found) == 1, found
        return found[0]

    return line


@pytest.fixture(scope="session")
def valid_manifests() -> st.SearchStrategy[dict[str, Any]]:
    """Manifests of every kind, with short forms and long ones, that the models accept."""
    inner = manifests()

    @st.composite
    def manifest(draw: st.DrawFn) -> dict[str, Any]:
        # Tests damage what they draw; the strategy's own values must not change under them.
        return copy.deepcopy(draw(inner))

    return manifest()
