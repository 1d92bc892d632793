"""An audit of two jobs, small enough to run many of them; a fixture for several rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.audit import AuditManifest

DIGITS = {"format": "digits", "split": "test", "limit": 40}


@pytest.fixture
def audit_of_jobs(tmp_path: Path, weights: Path) -> Callable[..., AuditManifest]:
    """Maps of 40 digits in two shards, and whether they keep what the model needs; nothing is
    trained. Keyword arguments replace whole parts."""

    def make(**changes: Any) -> AuditManifest:
        model = {"arch": "cnn", "width": 4, "weights": str(weights)}
        value: dict[str, Any] = {
            "kind": "audit",
            "name": "weekly",
            "runtime": {"address": "inline"},
            "store": {"url": str(tmp_path / "store")},
            "common": {"data": DIGITS, "methods": ["saliency"]},
            "jobs": {
                "maps": {"kind": "attribute", "model": model, "shard_rows": 20},
                "trust": {
                    "kind": "diffroar",
                    "test": DIGITS,
                    "models": {"standard": model},
                    "baselines": ["random"],
                    "levels": [0.3, 1.0],
                    "retrain": False,
                    "mask_only": False,
                },
            },
        }
        return AuditManifest.model_validate(value | changes)

    return make
