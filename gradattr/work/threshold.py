"""How many bad rows a manifest allows."""

from __future__ import annotations

from gradattr.manifest.attribute import AttributeManifest
from gradattr.manifest.kinds import Manifest


def bad_rows_allowed(manifest: Manifest, rows: int) -> float:
    """``errors.max`` as a number of rows: up to 1 it is a share, above 1 a count."""
    if not isinstance(manifest, AttributeManifest):
        return 0.0
    limit = manifest.errors.max
    return limit * rows if limit <= 1 else limit
