"""Model specs from plain dictionaries, and a user's module with factories."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from gradattr.manifest.model import ModelSpec
from gradattr.storage.objects import ObjectStore, open_store

_FACTORIES = """
import random

import numpy as np
import torch
from torch import nn


def small(classes=3, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes, bias=bias))


def doubles():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).double()


def draws():
    model = small()
    noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
    nn.init.constant_(model[1].bias, noise)
    return model


def broken():
    raise RuntimeError("no such layer")


def nothing():
    return None


class Pair(nn.Module):
    def forward(self, x):
        return x, x


number = 3
"""


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., Any]:
    """``make_spec("mlp", hidden=[8])`` is the checked spec; weights default to a dummy URL."""
    adapter: TypeAdapter[Any] = TypeAdapter(ModelSpec)

    def make(arch: str, **fields: Any) -> Any:
        if "train" not in fields:
            fields.setdefault("weights", "model.safetensors")
        return adapter.validate_python({"arch": arch, **fields})

    return make


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of an importable module with factories."""
    name = "users_own_models"
    (tmp_path / f"{name}.py").write_text(_FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """An empty store in a local folder."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "s3_moto", "s3_rclone"])
def any_store(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty store in a folder, on S3 with conditional PUT, and on S3 without it."""
    if request.param == "local":
        return request.getfixturevalue("store")
    return open_store(request.getfixturevalue(request.param))


@pytest.fixture
def train_block() -> dict[str, Any]:
    """A ``train:`` block of a manifest."""
    return {"data": {"format": "digits", "split": "train"}, "epochs": 3, "batch_size": 64}
