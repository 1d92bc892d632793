"""A run of kind tfa small enough to run many of them, and what it read; for several rooms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gradattr.manifest.tfa import TfaManifest

#: How its model is trained: briefly, so that it is still wrong now and then.
TRAIN = {"epochs": 3, "lr": 0.05, "batch_size": 32, "keep_epochs": [1, 3]}
#: The plain map: nothing is averaged over noisy copies.
PLAIN = {"map": "tfa", "samples": 1, "sigma": 0.0}
MakeTfa = Callable[..., TfaManifest]


@pytest.fixture(scope="session")
def tfa_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: what is trained once is there for every run."""
    return tmp_path_factory.mktemp("tfa") / "store"


@pytest.fixture(scope="session")
def tfa(tfa_store: Path) -> MakeTfa:
    """Digits, a small network, two queries; keyword arguments replace whole parts, those of
    ``queries`` and ``store`` their fields."""

    def make(**changes: Any) -> TfaManifest:
        value: dict[str, Any] = {
            "kind": "tfa",
            "name": "tiny",
            "data": {"format": "digits", "split": "train", "limit": 60},
            "preprocess": {"mean": [0.3], "std": [0.4]},
            "model": {"arch": "mlp", "hidden": [12], "train": TRAIN},
            "maps": [PLAIN],
            "top": 3,
            "shard_rows": 25,
            "runtime": {"address": "inline"},
        }
        queries = {"data": {"format": "digits", "split": "test", "limit": 40}}
        queries |= {} if "ids" in changes.get("queries", {}) else {"count": 5}
        store = {"url": str(tfa_store), "maps": "float32"}
        value["queries"] = queries | changes.pop("queries", {})
        value["store"] = store | changes.pop("store", {})
        return TfaManifest.model_validate(value | changes)

    return make


def digits_npz(
    path: Path, rows: Sequence[int], labels: Any = "own", **edits: Any
) -> dict[str, Any]:
    """A data set of these of the digits, in this order, as a file; ``edits``: images (n, 8, 8) in
    their place. ``labels``: None, or other ones."""
    digits = load_digits()
    images = (digits.images[list(rows)] / 16).astype(np.float32)
    own = digits.target[list(rows)] if isinstance(labels, str) else labels
    arrays = {"images": edits.get("images", images)}
    if own is not None:
        arrays["labels"] = np.asarray(own)
    np.savez(path, **arrays)
    value = {"format": "npz", "file": str(path)}
    return value if own is not None else value | {"labels": None}
