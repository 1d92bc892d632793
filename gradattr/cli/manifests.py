"""Manifests as commands get them: a file, or a URL of any store."""

from __future__ import annotations

from gradattr.manifest.kinds import Manifest
from gradattr.manifest.loading import load_manifest, parse_manifest


def read_manifest(path: str, overrides: list[str]) -> Manifest:
    """Load a manifest from a path or URL, with ``--set`` overrides. Raises ManifestError."""
    if "://" in path and not path.startswith("file://"):
        # The manifest floor reads local files only; what lies in a store comes through storage.
        from gradattr.storage.filesystem import read_bytes

        text = read_bytes(path).decode("utf-8", errors="replace")
        return parse_manifest(text, file=path, overrides=overrides)
    return load_manifest(path.removeprefix("file://"), overrides=overrides)
