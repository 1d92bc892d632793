"""A DiffROAR audit small enough to run many of them; a fixture for several rooms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradattr.manifest.diffroar import DiffRoarManifest

#: How its models are trained.
TRAIN = {"epochs": 4, "lr": 0.1, "batch_size": 32, "augment": {"crop_padding": 1, "flip": False}}


@pytest.fixture
def audit(tmp_path: Path) -> Callable[..., DiffRoarManifest]:
    """A small audit on digits; keyword arguments replace whole parts."""

    def make(**changes: Any) -> DiffRoarManifest:
        value: dict[str, Any] = {
            "kind": "diffroar",
            "name": "tiny",
            "data": {"format": "digits", "split": "train", "limit": 200},
            "test": {"format": "digits", "split": "test", "limit": 100},
            "preprocess": {"mean": [0.3], "std": [0.4]},
            "models": {"standard": {"arch": "mlp", "hidden": [16], "train": TRAIN}},
            "levels": [0.1, 0.5, 1.0],
            "seeds": 2,
            "shard_rows": 64,
            "runtime": {"address": "inline"},
            "store": {"url": str(tmp_path / "store")},
        }
        return DiffRoarManifest.model_validate(value | changes)

    return make
