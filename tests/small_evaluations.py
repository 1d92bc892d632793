"""Whole evaluations of a few digits by a small network, and the same numbers by direct calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from gradattr.attribution import Normalization, PlainEvaluator
from gradattr.attribution.requests import MethodRequest
from gradattr.data.registry import load_all
from gradattr.manifest.evaluate import EvaluateManifest
from gradattr.report.results import Run
from gradattr.runtime.driver import run
from gradattr.seeds import sample_seeds
from gradattr.storage.objects import open_store
from gradattr.work.context import MAIN
from gradattr.work.methods import normalization, stand_in_requests
from gradattr.work.modules import load_module
from gradattr.work.planning.indexes import Indexes
from gradattr.work.planning.prepare import prepare

METHODS: list[Any] = [
    "gradient",
    {"name": "integrated_gradients", "steps": 6},
    {"name": "uni", "steps": 3, "iterations": 2},
    "random",
]
IMAGES = 7
PREPROCESS = {"mean": [0.3], "std": [0.4]}


@pytest.fixture
def evaluation(tmp_path: Path, weights: Path) -> Callable[..., EvaluateManifest]:
    """An evaluation by the metrics given; keyword arguments replace whole parts."""

    def make(*metrics: Any, **changes: Any) -> EvaluateManifest:
        value: dict[str, Any] = {
            "kind": "evaluate",
            "name": "judged",
            "data": {"format": "digits", "limit": IMAGES},
            "model": {"arch": "cnn", "width": 4, "weights": str(weights)},
            "preprocess": PREPROCESS,
            "methods": METHODS,
            "metrics": list(metrics),
            "seed": 5,
            "shard_rows": 6,
            "runtime": {"address": "inline"},
            "store": {"url": str(tmp_path / "store"), "maps": "float32"},
        }
        return EvaluateManifest.model_validate(value | changes)

    return make


def finished(manifest: EvaluateManifest) -> Run:
    """The run of a manifest, carried out."""
    return Run(open_store(manifest.store), run(manifest).run_id)


def scores(found: Run) -> dict[tuple[str, str], np.ndarray]:
    """(metric, method) -> values by row; NaN where there is none."""
    table = found.frame("scores").sort_values("row")
    return {
        (str(metric), str(method)): part["value"].to_numpy(np.float64)
        for (metric, method), part in table.groupby(["metric", "method"])
    }


@dataclass
class Direct:
    """What a direct call of the mathematics takes: the model as it is, images, seeds."""

    evaluator: PlainEvaluator
    x: Tensor
    labels: Tensor
    requests: list[MethodRequest]
    seeds: list[int]
    normalization: Normalization

    @property
    def settings(self) -> dict[str, Any]:
        return {"seeds": self.seeds, "normalization": self.normalization}


def direct(manifest: EvaluateManifest, role: str = MAIN, spec: Any = None) -> Direct:
    """Of a manifest without pools of images; the run may have to be carried out first, if it
    trains the model of this ``role``."""
    store = open_store(manifest.store)
    context = prepare(manifest, store).context
    batch = load_all(manifest.data, Indexes(None).get(manifest.data), context.preprocess)
    model = load_module(context, role, spec or manifest.model, store, {})
    return Direct(
        PlainEvaluator(model),
        batch.x,
        batch.labels,
        stand_in_requests(manifest, context.shape, context.num_classes),
        sample_seeds(manifest.seed, "sample", batch.sample_ids),
        normalization(context.preprocess, context.shape[0]),
    )
