"""Manifests as commands get them: a file, or a URL of any store."""

from __future__ import annotations

from gradattr.manifest.kinds import Manifest
from gradattr.manifest.loading import load_manifest


def read_manifest(path: str, overrides: list[str]) -> Manifest:
    """Load a manifest from a path or URL, with ``--set`` overrides. Raises ManifestError."""
    return load_manifest(path, overrides=overrides, read=read_bytes_of)


def read_bytes_of(url: str) -> bytes:
    """The bytes of a URL of any store."""
    # Not at the top: fsspec and what it brings are slow to import, and most manifests are files.
    from gradattr.storage.filesystem import read_bytes

    return read_bytes(url)
