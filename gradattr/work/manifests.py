"""Manifests from a file or from a URL of any store. The manifest floor itself opens no store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradattr.manifest import loading
from gradattr.manifest.kinds import Manifest


def load_manifest(source: str | Path, *, overrides: Sequence[str] = ()) -> Manifest:
    """Read and check a manifest: a path, or a file://, s3://, gs:// or az:// URL.

    ``overrides`` are ``key.path=value`` texts, as for ``--set``. Raises ManifestError, which lists
    every fault with ``file:line:column``.
    """
    return loading.load_manifest(source, overrides=overrides, read=read_bytes_of)


def read_bytes_of(url: str) -> bytes:
    """The bytes of a URL of any store."""
    # Not at the top: fsspec and what it brings are slow to import, and most manifests are files.
    from gradattr.storage.filesystem import read_bytes

    return read_bytes(url)
