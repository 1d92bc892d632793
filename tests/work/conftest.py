"""A writer that keeps what it is given, and attributions made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch

from gradattr.attribution.result import Attribution
from gradattr.data.types import Batch
from gradattr.manifest.attribute import AttributeManifest
from tests.small_audits import audit_of_jobs
from tests.small_diffroar import audit
from tests.small_runs import weights

__all__ = ["attribution", "audit", "audit_of_jobs", "batch", "collector", "manifest", "weights"]


class Collector:
    """Stands in for a ShardWriter: tables by name."""

    def __init__(self) -> None:
        self.parts: dict[str, list[pa.Table]] = {}

    def append(self, name: str, table: pa.Table) -> None:
        self.parts.setdefault(name, []).append(table)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [row for part in self.parts.get(name, []) for row in part.to_pylist()]


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def manifest() -> Callable[..., AttributeManifest]:
    def make(**changes: Any) -> AttributeManifest:
        value: dict[str, Any] = {
            "kind": "attribute",
            "name": "x",
            "data": "digits",
            "model": {"arch": "linear", "weights": "w.safetensors"},
            "methods": ["gradient"],
            "store": {"maps": "float32"},
        }
        return AttributeManifest.model_validate(value | changes)

    return make


@pytest.fixture
def batch() -> Callable[..., Batch]:
    def make(labels: list[int], first: int = 0) -> Batch:
        n = len(labels)
        return Batch(
            x=torch.zeros(n, 1, 2, 2),
            labels=torch.tensor(labels),
            rows=list(range(first, first + n)),
            sample_ids=[f"s{first + i}" for i in range(n)],
            errors=[],
        )

    return make


@pytest.fixture
def attribution() -> Callable[..., Attribution]:
    def make(maps: torch.Tensor, logits: torch.Tensor, **changes: Any) -> Attribution:
        finite = torch.isfinite(maps.flatten(1)).all(1).tolist()
        values: dict[str, Any] = {
            "method": "gradient",
            "target": "logit_pred",
            "maps": maps,
            "index": logits.argmax(1),
            "score": logits.max(1).values,
            "logits": logits,
            "baseline_score": None,
            "completeness_gap": None,
            "evaluations": 1,
            "status": tuple("ok" if ok else "non_finite" for ok in finite),
        }
        return Attribution(**(values | changes))

    return make
