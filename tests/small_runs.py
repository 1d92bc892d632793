"""Manifests for whole runs, small enough to run many of them; fixtures for several rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from gradattr.manifest.kinds import KINDS, Manifest
from gradattr.manifest.model import CnnModel
from gradattr.models import build_model, save_weights

METHODS: list[Any] = [
    "gradient",
    "saliency",
    "input_x_gradient",
    {"name": "smoothgrad", "samples": 3},
    {"name": "vargrad", "samples": 3},
    {"name": "integrated_gradients", "steps": 8},
    {"name": "gradient_shap", "samples": 3, "baseline": {"kind": "sample", "count": 5}},
    {"name": "uni", "steps": 3, "iterations": 2},
    {"name": "blur_ig", "steps": 3},
    {"name": "guided_ig", "steps": 3},
    {"name": "agi", "iterations": 2, "classes": 3},
    "random",
]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CNN for digits, trained by nobody, saved as safetensors."""
    path = tmp_path_factory.mktemp("weights") / "cnn.safetensors"
    spec = CnnModel(arch="cnn", width=4, weights=str(path))
    path.write_bytes(save_weights(build_model(spec, shape=(1, 8, 8), num_classes=10, seed=7)))
    return path


@pytest.fixture
def make_manifest(tmp_path: Path, weights: Path) -> Callable[..., Manifest]:
    """A manifest over the first 90 digits; keyword arguments replace whole parts."""

    def make(**changes: Any) -> Manifest:
        value: dict[str, Any] = {
            "kind": "attribute",
            "name": "tiny",
            "data": {"format": "digits", "limit": 90},
            "model": {"arch": "cnn", "width": 4, "weights": str(weights)},
            "methods": METHODS,
            "shard_rows": 20,
            "runtime": {"address": "inline"},
            "store": {"url": str(tmp_path / "store"), "maps": "float32"},
        }
        value |= changes
        return KINDS[value["kind"]].model_validate(value)

    return make


@pytest.fixture
def table_of() -> Callable[[Any, str], pa.Table]:
    """A run's table in one order, whatever the shards were."""

    def read(run: Any, name: str) -> pa.Table:
        table = run.table(name)
        keys = [
            column for column in ("row", "method", "model", "epoch") if column in table.column_names
        ]
        return table.sort_by([(key, "ascending") for key in keys])

    return read


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Workers use one thread; so must runs in this process that are compared with them."""
    with _one_thread():
        yield
