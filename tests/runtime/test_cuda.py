"""Runs on a CUDA device, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradattr.report.results import open_run
from gradattr.runtime.driver import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_cuda_agrees_with_the_cpu(make_manifest: Callable[..., Any], tmp_path: Path) -> None:
    """Methods without noise: noise is drawn on the device, and differs between devices."""
    methods = ["gradient", {"name": "integrated_gradients", "steps": 16}]
    runs = []
    for device in ("cpu", "cuda"):
        store = {"url": str(tmp_path / device), "maps": "float32"}
        engine = {"device": device}
        manifest = make_manifest(methods=methods, store=store, engine=engine)
        runs.append(open_run(run(manifest).uri))
    for method in ("gradient", "integrated_gradients"):
        sql = f"SELECT map FROM maps WHERE method = '{method}' ORDER BY row"
        cpu, cuda = (
            np.array([np.ravel(m) for m in each.sql(sql)["map"].to_pylist()]) for each in runs
        )
        np.testing.assert_allclose(cuda, cpu, rtol=1e-2, atol=1e-4)
